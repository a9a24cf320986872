"""Trainers that mend what the stock Trainer gets wrong without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from hf_td.patching.distributed import sum_over_processes
from hf_td.training.checkpoints import WholeCheckpointsMixin
from hf_td.training.distillation import DistillationMixin
from hf_td.training.distillation.losses import IGNORED
from hf_td.training.epoch_order import RepeatableOrderMixin
from hf_td.training.losses import divides_by_items


class ReliableMixin(RepeatableOrderMixin, WholeCheckpointsMixin):
    """A mixin for Trainers that mends what the stock Trainer gets wrong without a word.

    It stops at a non-finite loss, and writes checkpoints that resume whole, also inside an epoch
    whose rows are grouped by length. A torn checkpoint is passed over. It has the same gradients
    however a batch is split into micro-batches and over processes.
    """

    accelerator: Any
    control: Any
    compute_loss_func: Any
    is_fsdp_enabled: bool
    label_smoother: Any
    model: Any
    model_accepts_loss_kwargs: bool
    model_init: Any
    state: Any

    _loss_is_measured = False
    _believed: bool | None = None  # `model_accepts_loss_kwargs` before it was measured
    _prunes = False  # PrunedEvaluationMixin does

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parent: Any = super()
        parent.__init__(*args, **kwargs)
        for name in ("eval_sparsity", "fixed_sparsity"):
            if getattr(self.args, name, None) is not None:
                self._check_can_prune(name)
        # The filter would leave a non-finite loss out of the logged mean. Here it is an error.
        self.args.logging_nan_inf_filter = False

    def _check_can_prune(self, name: str) -> None:
        if not self._prunes:
            raise ValueError(
                f"{name} prunes by the ranking of targeted dropout, and "
                f"{type(self).__name__} has none. Use TargetedDropoutTrainer, or leave it out"
            )
        if self.is_fsdp_enabled:
            raise ValueError(
                f"{name} prunes the model in each process, and under FSDP none has whole "
                "weights. Leave it out, train to the end, and prune what save_gathered writes"
            )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of the parent. The first call measures what the model divides by."""
        if num_items_in_batch is not None and not self._loss_is_measured:
            self._measure_loss(model, inputs, num_items_in_batch)
        parent: Any = super()
        return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _measure_loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> None:
        """Find out whether the model divides its loss by the items of all micro-batches.

        Trainer believes it of every model that takes any keyword, and then does not divide the loss
        itself. Many heads ignore the number: with four micro-batches, or four processes, their
        gradients were four times as large.
        https://github.com/huggingface/transformers/issues/47688
        """
        is_whole = self.args.gradient_accumulation_steps == 1 and self.args.world_size == 1
        is_models = self.compute_loss_func is None and self.label_smoother is None
        # Not noted as measured: the next training can have other arguments.
        if is_whole or not is_models or not self.model_accepts_loss_kwargs:
            return
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        divides = divides_by_items(unwrapped, inputs, num_items_in_batch)
        # All processes decide the same: under FSDP one that measured again would wait in vain.
        votes = torch.tensor([divides is True, divides is False], device=self.args.device).long()
        yes, no = sum_over_processes([votes])[0].tolist()
        if yes or no:
            self._believed, self.model_accepts_loss_kwargs = True, yes >= no
            self._loss_is_measured = True

    def _run_epoch(self, **kwargs: Any) -> None:
        """Run an epoch as the parent does.

        A run whose last update lies inside an epoch would make one more when it is resumed there.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        parent: Any = super()
        parent._run_epoch(**kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial; a new model is measured anew."""
        parent: Any = super()
        parent._hp_search_setup(trial)
        if self.model_init is not None and self._believed is not None:
            self.model_accepts_loss_kwargs, self._believed = self._believed, None
            self._loss_is_measured = False

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward and backward.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        parent: Any = super()
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        loss = parent.training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            update = f"update {self.state.global_step + 1} of {self.state.max_steps}"
            raise FloatingPointError(
                f"the loss is {float(loss)} at {update}; nothing was saved after the last "
                f"checkpoint. {_cure(labels)}"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        parent: Any = super()
        with _in_memory_names(self.model):
            parent._save(output_dir, state_dict)


def _cure(labels: Any) -> str:
    """Return what helps against a loss that is not finite, by the labels of its batch."""
    if isinstance(labels, Tensor) and labels.is_floating_point() and not labels.isfinite().all():
        return "Labels of the batch are not finite: correct these rows, or leave them out"
    if isinstance(labels, Tensor) and labels.numel() and bool((labels == IGNORED).all()):
        return (
            f"No label of the batch counts, all are {IGNORED}: leave such rows out, take larger "
            "batches, or give a teacher"
        )
    return (
        "Lower the learning rate, lengthen the warm-up, clip gradients (max_grad_norm), or train "
        "in bf16 or float32 instead of fp16"
    )


@contextmanager
def _in_memory_names(model: Any) -> Iterator[None]:
    """Save checkpoints under the names that `Trainer` looks for when it resumes.

    Trainer saves under the names that a checkpoint had on disk, and loads them without conversion.
    Resuming would leave the renamed tensors of some families (ViT, Mixtral, ...) at their initial
    values: https://github.com/huggingface/transformers/issues/48805
    """
    if not isinstance(model, PreTrainedModel):
        yield
        return
    before = {k: v for k, v in model.__dict__.items() if k == "save_pretrained"}
    saving = partial(model.save_pretrained, save_original_format=False)
    model.__dict__["save_pretrained"] = saving
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]
        model.__dict__.update(before)


class ReliableTrainer(DistillationMixin, ReliableMixin, Trainer):
    """`transformers.Trainer` for runs without targeted dropout; distils if there is a teacher."""
