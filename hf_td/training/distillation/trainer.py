"""A mixin that makes any Trainer distil."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn

from hf_td.training.distillation.head import adopt_head, eager_attention
from hf_td.training.distillation.losses import labelled_rows, labels_loss
from hf_td.training.distillation.maps import FreshGradients, HiddenMaps, make_maps
from hf_td.training.distillation.settings import Distillation
from hf_td.training.distillation.teacher import load_teacher, shifts_labels
from hf_td.training.distillation.terms import TERMS, Lesson
from hf_td.training.losses import share_of_update


class DistillationMixin:
    """A mixin for Trainers that distils from `args.teacher`; a no-op without a teacher.

    Rows without a label (see `losses.labelled_rows`) are taught by the teacher alone.
    """

    args: Any
    model: Any
    accelerator: Any
    optimizer: Any
    callback_handler: Any
    compute_loss_func: Any
    label_names: Any
    label_smoother: Any
    model_init: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    _frozen: list[nn.Parameter] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the parent does. The head is trainable again afterwards."""
        parent: Any = super()
        with self._until_trained:
            return parent.train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of the parent, in training mixed with the teacher's.

        Raises:
            ValueError: rows have no label, and the Trainer has a loss function of its own.
        """
        parent: Any = super()
        settings = self._distillation
        if not model.training or settings is None:
            return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = {**inputs, **settings.asks}
        complete = dict(inputs)  # the parent may remove the labels
        if settings.labels:
            task_loss, outputs = parent.compute_loss(model, inputs, True, num_items_in_batch)
        else:
            task_loss, outputs = None, model(**self._without_labels(inputs))
        loss = self._taught(settings, complete, outputs)
        if task_loss is not None and self._counts_all_rows(complete.get("labels")):
            loss = loss + settings.labels * self._partial_loss(outputs, complete["labels"])
            task_loss = None
        loss = loss * share_of_update(self, num_items_in_batch)
        if task_loss is not None:
            loss = settings.labels * task_loss + loss
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimiser of the parent, without a frozen head and with the maps.

        Raises:
            ValueError: the model or the given optimiser cannot do what the settings ask for.
        """
        parent: Any = super()
        settings, fresh = self._distillation, self.optimizer is None
        head = [] if settings is None else self._begin(settings)
        optimizer = parent.create_optimizer(*args, **kwargs)
        maps = [] if self._maps is None else list(self._maps.parameters())
        if fresh and maps:
            optimizer.add_param_group({"params": maps, "weight_decay": 0.0})
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) not in known for p in maps) or any(id(p) in known for p in head):
            raise ValueError(
                "the given optimiser has the head that is frozen, or lacks the maps of the hidden "
                "states. Let the Trainer create the optimiser (`optim`)"
            )
        return optimizer

    def _begin(self, settings: Distillation) -> list[nn.Parameter]:
        """Prepare the models for training, and return the parameters that are frozen.

        A second call in one training, as after a batch that was too large, prepares nothing anew.
        """
        if self._frozen is None:
            self._frozen = self._prepare(settings)
            self._until_trained.callback(setattr, self, "_frozen", None)
        return self._frozen

    def _prepare(self, settings: Distillation) -> list[nn.Parameter]:
        if "attention" in settings.weights:
            self._until_trained.enter_context(eager_attention(self.model, self._teacher))
        if self._maps is not None:
            clearing = FreshGradients(self._maps)
            self.callback_handler.add_callback(clearing)
            self._until_trained.callback(self.callback_handler.remove_callback, clearing)
        if not settings.freeze_head:
            return []
        self._check_is_whole("distill_freeze_head")
        head = adopt_head(self.model, self._teacher)
        for parameter in head:
            self._until_trained.callback(parameter.requires_grad_, True)
        return head

    def _check_is_whole(self, what: str) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"{what} needs the whole model in each process, and FSDP or DeepSpeed divide it. "
                "Train without them, or give another preset (--distill logits)"
            )

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, which may name another teacher.

        The maps of a model that is trained again stay, as the optimiser does that has them.
        """
        parent: Any = super()
        parent._hp_search_setup(trial)
        for name in ("_teacher",) if self.model_init is None else ("_teacher", "_maps"):
            self.__dict__.pop(name, None)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save what a checkpoint has beside the model; the parent calls this for each."""
        parent: Any = super()
        parent._save_rng_state(output_dir)
        if self._maps is not None and self.args.should_save:
            self._maps.save(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parent: Any = super()
        parent._load_from_checkpoint(resume_from_checkpoint, model)
        if self._maps is not None:
            self._maps.resume(resume_from_checkpoint)

    @property
    def _distillation(self) -> Distillation | None:
        """The loss of a run with a teacher; None where no teacher has a weight."""
        settings = self.args.distillation() if getattr(self.args, "teacher", None) else None
        return settings if settings is not None and settings.weights else None

    @cached_property
    def _until_trained(self) -> ExitStack:
        """What is undone when training ends."""
        return ExitStack()

    @cached_property
    def _teacher(self) -> Any:
        """The teacher, loaded and compared with the student when it is first needed.

        Under FSDP2 it is sharded as the student is.
        """
        tokenizer = getattr(self, "processing_class", None)
        teacher = load_teacher(self.args.teacher, self.model, tokenizer)
        if self.accelerator.is_fsdp2:
            return fsdp2_prepare_model(self.accelerator, teacher)
        return teacher

    @cached_property
    def _maps(self) -> HiddenMaps | None:
        settings = self._distillation
        if settings is None or not {"hidden", "last_hidden"} & settings.weights.keys():
            return None
        maps = make_maps(self.model, self._teacher, settings.weights)
        if maps is not None and (self.args.world_size > 1 or self.is_deepspeed_enabled):
            raise ValueError(
                "hidden states of another width are mapped in one process only, for the maps are "
                "not averaged over several. Train in one, or give a teacher of the same width"
            )
        return maps

    def _counts_all_rows(self, labels: Tensor | None) -> bool:
        """Return True if the loss of the labels is a mean over all rows of the batch.

        The smoother of the Trainer divides by the labelled rows of the whole update. So with label
        smoothing batches without a gap count all rows too, as others of the update have to.
        """
        if labels is None or labels.dim() != 1:
            return False
        smoothed = self.label_smoother is not None and self.compute_loss_func is None
        return smoothed or labelled_rows(labels) is not None

    def _partial_loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Return the loss of the rows that have a label, a mean over all rows."""
        if self.compute_loss_func is not None:
            raise ValueError(
                "rows without a label have no place in compute_loss_func. Leave it out, or train "
                "without labels (distill_labels_weight 0)"
            )
        return labels_loss(outputs["logits"], labels, self.args.label_smoothing_factor)

    def _without_labels(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out the labels, from which the model would compute a loss that is not used."""
        if self._teacher.config.is_encoder_decoder:  # these derive decoder inputs from the labels
            return dict(inputs)
        labels = {"labels", *self.label_names}  # an adapter hides the names of its model's
        return {name: value for name, value in inputs.items() if name not in labels}

    def _taught(self, settings: Distillation, inputs: Mapping[str, Any], outputs: Any) -> Tensor:
        """Return the sum of the weighted terms."""
        teacher = self._teacher
        accepted = {*inspect.signature(teacher.forward).parameters, *settings.asks}
        given = self._without_labels(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            target = teacher(**{name: value for name, value in given.items() if name in accepted})
        lesson = Lesson(
            inputs=inputs,
            student=outputs,
            teacher=target,
            temperature=settings.temperature,
            shifted=shifts_labels(self.model),
            maps={} if self._maps is None else self._maps.by_state,
        )
        losses = [weight * TERMS[name].loss(lesson) for name, weight in settings.weights.items()]
        return torch.stack(losses).sum()
