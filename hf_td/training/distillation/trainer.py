"""A mixin that makes any Trainer distil."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn

from hf_td.training.distillation.head import adopt_head, eager_attention
from hf_td.training.distillation.lesson import Lesson
from hf_td.training.distillation.losses import labelled_rows, labels_loss
from hf_td.training.distillation.maps import FreshGradients, HiddenMaps, make_maps
from hf_td.training.distillation.settings import Distillation
from hf_td.training.distillation.student import check_runs_whole
from hf_td.training.distillation.teacher import check_problem, load_teacher, shifts_labels
from hf_td.training.distillation.terms import TERMS
from hf_td.training.losses import share_of_update

logger = logging.getLogger(__name__)


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
    _asked = False  # our compute_loss was called in this training
    _shifted: bool | None = None  # logits predict the next token; None before the first batch
    _signature_columns: list[str] | None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the parent does. The head is trainable again afterwards."""
        parent: Any = super()
        self._asked = False
        with self._until_trained:
            return parent.train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the gradients of a micro-batch as the parent does.

        Raises:
            TypeError: a subclass computes a loss to which nothing of this class is added.
        """
        parent: Any = super()
        loss = parent.training_step(*args, **kwargs)
        if not self._asked and self._adds_to_loss:
            raise TypeError(
                f"compute_loss of {type(self).__name__} does not call that of its parent, which "
                f"adds {self._adds_to_loss} to the loss. Call super().compute_loss in it, or give "
                "the Trainer your loss as compute_loss_func"
            )
        return loss

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
        self._asked = True
        if not model.training or settings is None:
            return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        complete = {**inputs, **settings.asks}
        apart = self._teachers_columns
        inputs = {n: value for n, value in inputs.items() if n not in apart} | settings.asks
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
        if settings.asks:
            check_runs_whole(self.model)
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
        known = ("_teacher", "_shifted")
        for name in known if self.model_init is None else (*known, "_maps"):
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

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        parent: Any = super()
        with self._columns_of_both(description):
            return parent._remove_unused_columns(dataset, description)

    def _get_collator_with_removed_columns(
        self, data_collator: Any, description: str | None = None
    ) -> Any:
        parent: Any = super()
        with self._columns_of_both(description):
            return parent._get_collator_with_removed_columns(data_collator, description)

    @contextmanager
    def _columns_of_both(self, description: str | None) -> Iterator[None]:
        """Keep the columns of training that the teacher reads and the student does not.

        A BERT reads which text of a pair a token is of, and a DistilBERT does not.
        """
        if (description or "").lower() != "training" or self._distillation is None:
            yield
            return
        added = self._teachers_columns
        ours = self._signature_columns or []
        self._signature_columns = [*ours, *added]
        try:
            yield
        finally:
            self._signature_columns = ours

    @property
    def _teachers_columns(self) -> set[str]:
        """The inputs that the teacher reads and the student does not."""
        parent: Any = super()
        parent._set_signature_columns_if_needed()
        theirs = {*inspect.signature(self._teacher.forward).parameters}
        return theirs - {*(self._signature_columns or []), "kwargs", "args"}

    @property
    def _adds_to_loss(self) -> str:
        """What `compute_loss` adds, in words; empty for nothing."""
        return "" if self._distillation is None else "what the teacher says"

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

    def _warn_of_missing(self, inputs: Mapping[str, Any]) -> None:
        """Warn if the teacher cannot tell the texts of a pair, for the student does not read it."""
        name, kinds = "token_type_ids", getattr(self._teacher.config, "type_vocab_size", 1) or 1
        if kinds > 1 and name in self._teachers_columns and name not in inputs:
            logger.warning(
                "the teacher reads %s, which the student does not, and the batches have none: the "
                "teacher takes all tokens for those of a first text. Where rows are pairs of texts "
                "make them with tokenizer(..., return_token_type_ids=True)",
                name,
            )

    def _counts_all_rows(self, labels: Any) -> bool:
        """Return True if the loss of the labels is a mean over all rows of the batch.

        The smoother of the Trainer divides by the labelled rows of the whole update. So with label
        smoothing batches without a gap count all rows too, as others of the update have to.
        """
        if not isinstance(labels, Tensor) or labels.dim() != 1:
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
        check_problem(self.model.config, teacher.config)  # some models find it in a first batch
        accepted = {*inspect.signature(teacher.forward).parameters, *settings.asks}
        given = {n: v for n, v in self._without_labels(inputs).items() if n in accepted}
        with torch.no_grad(), self.accelerator.autocast():
            target = teacher(**given)
            if self._shifted is None:
                self._shifted = shifts_labels(teacher, given)
                self._warn_of_missing(inputs)
        lesson = Lesson(
            inputs=inputs,
            student=outputs,
            teacher=target,
            temperature=settings.temperature,
            model=self.model,
            shifted=self._shifted,
            regression=self.model.config.problem_type == "regression",
            maps={} if self._maps is None else self._maps.by_state,
        )
        losses = [weight * TERMS[name].loss(lesson) for name, weight in settings.weights.items()]
        return torch.stack(losses).sum()
