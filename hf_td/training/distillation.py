"""Distillation from a dense teacher that was fine-tuned on the task.

The loss of logits is that of Hinton et al. (arXiv 1503.02531). The loss of hidden states is the
mean squared error, as in DistilBERT and TinyBERT.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from hf_td.training.losses import share_of_update
from hf_td.training.vocabulary import knows_words

_IGNORED = -100  # the label of a token that is left out of the loss


@dataclass
class DistillationFields:
    """The settings of distillation, one flat field each."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "model to distil from, fine-tuned on the task: folder, or id on the Hub"},
    )
    distill_temperature: float = field(
        default=2.0, metadata={"help": "divisor of the logits of student and teacher, positive"}
    )
    distill_weight: float = field(
        default=0.9,
        metadata={
            "help": "share of the teacher's logits in the loss, in [0, 1]; the rest is the labels'"
        },
    )
    distill_hidden_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the mean squared error of hidden states, added to the loss"},
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        parent.__post_init__()
        if self.distill_temperature <= 0:
            raise ValueError(f"distill_temperature is positive, got {self.distill_temperature}")
        if not 0 <= self.distill_weight <= 1:
            raise ValueError(f"distill_weight is a share in [0, 1], got {self.distill_weight}")
        if self.distill_hidden_weight < 0:
            raise ValueError(
                f"distill_hidden_weight is at least 0, got {self.distill_hidden_weight}"
            )


def logits_loss(
    student: Tensor, teacher: Tensor, temperature: float, counts: Tensor | None = None
) -> Tensor:
    """Return the divergence of the student's distribution from the teacher's, a mean over rows.

    With one output, a regression, it is the mean squared error. The divergence is multiplied by the
    square of the temperature, which keeps the scale of its gradients.

    Args:
        student: logits, `(..., classes)`.
        teacher: logits of the same shape.
        temperature: the divisor of both, positive.
        counts: boolean `(...)`, true for the rows to average over; None for all. The loss is 0 if
            it is all false.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        each = (student - teacher).square().squeeze(-1)
    else:
        predicted = F.log_softmax(student / temperature, dim=-1)
        target = F.log_softmax(teacher / temperature, dim=-1)
        each = F.kl_div(predicted, target, log_target=True, reduction="none").sum(-1)
        each = each * temperature**2
    return _mean(each, counts)


def hidden_loss(student: Any, teacher: Any, counts: Tensor | None = None) -> Tensor:
    """Return the mean squared error of the hidden states, a mean over layers and tokens.

    Args:
        student: a sequence of tensors `(batch, tokens, width)`, one for each layer.
        teacher: a sequence of the same length and shapes.
        counts: boolean `(batch, tokens)`, true for the tokens to average over; None for all.

    Raises:
        ValueError: the numbers of layers or the widths differ.
    """
    _check_same_size("layers with hidden states", len(student), len(teacher))
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        _check_same_size("the width of a layer", ours.shape[-1], theirs.shape[-1])
        each = (ours.float() - theirs.float()).square().mean(-1)
        losses.append(_mean(each, counts if each.shape == getattr(counts, "shape", None) else None))
    return torch.stack(losses).mean()


def _check_same_size(what: str, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise ValueError(
            f"hidden states can be distilled only between models of one size, but {what}: {ours} "
            f"in the student, {theirs} in the teacher. Set distill_hidden_weight to 0"
        )


def _mean(each: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return each.mean()
    return (each * counts).sum() / counts.sum().clamp(min=1)


def counted_rows(logits: Tensor, labels: Tensor | None, *, shifted: bool) -> Tensor | None:
    """Return a mask of the rows of the logits that have a label; None if all have one.

    Args:
        logits: `(batch, tokens, classes)`, or `(batch, classes)`.
        labels: `(batch, tokens)` in the first case; -100 for a token without a label.
        shifted: true if the logits of a token predict the label of the next token.
    """
    if labels is None or labels.shape != logits.shape[:-1] or labels.is_floating_point():
        return None
    if shifted:
        labels = F.pad(labels[..., 1:], (0, 1), value=_IGNORED)
    return labels != _IGNORED


@lru_cache(maxsize=1)  # runs of several seeds share one teacher
def _load(
    name: str, files: tuple[Any, ...], dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name)
    known = [a for a in config.architectures or () if hasattr(transformers, a)]
    if not known:
        raise ValueError(
            f"the teacher {name} is of no class that transformers has. Its config names "
            f"{config.architectures}"
        )
    model = getattr(transformers, known[0]).from_pretrained(name, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def _files(name: str) -> tuple[Any, ...]:
    """Return a key that changes when a folder is rewritten; empty for an id on the Hub."""
    files = [path for path in sorted(Path(name).glob("*")) if path.is_file()]
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def load_teacher(name: str, student: PreTrainedModel, tokenizer: Any = None) -> PreTrainedModel:
    """Load a teacher, in eval mode and without gradients, on the device of the student.

    The last teacher stays in memory and is returned again while its files are unchanged, until
    another is loaded or `forget_teacher` is called.

    Args:
        name: a folder, or an id on the Hub.
        student: a model of the same task.
        tokenizer: the student's, whose vocabulary the teacher's must equal; None skips that check.

    Raises:
        ValueError: task, vocabulary or labels differ.
    """
    parameter = next(student.parameters())
    teacher = _load(name, _files(name), parameter.dtype, parameter.device)
    ours, theirs = student.config, teacher.config
    _check_equal(name, "the task", _task(student), _task(teacher))
    if ours.problem_type == "multi_label_classification":
        raise ValueError(
            "logits of several labels at once are not one distribution, and cannot be distilled. "
            "Train without a teacher"
        )
    _check_equal(name, "the size of the vocabulary", _vocabulary(ours), _vocabulary(theirs))
    _check_equal(name, "the number of labels", ours.num_labels, theirs.num_labels)
    if _names_labels(ours) and _names_labels(theirs):
        _check_equal(name, "the labels", ours.id2label, theirs.id2label)
    if hasattr(tokenizer, "get_vocab"):
        _check_tokens(name, tokenizer)
    return teacher


def forget_teacher() -> None:
    """Free the teacher that `load_teacher` keeps in memory."""
    _load.cache_clear()


def _check_equal(name: str, what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(
            f"the teacher {name} does not fit the student: {what} is {theirs}, not {ours}. Use a "
            "teacher that was fine-tuned on the same task with the same tokenizer"
        )


def _check_tokens(name: str, tokenizer: Any) -> None:
    try:
        own = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        own = None
    if own is None or not knows_words(own):
        return  # saved without a tokenizer: equal sizes have to suffice
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"the teacher {name} does not fit the student: their vocabularies differ. Use a "
            "teacher with the same tokenizer"
        )


def _task(model: PreTrainedModel) -> str:
    """Return the name of the loss in transformers, such as ForSequenceClassification."""
    known, name = getattr(model, "loss_type", None), type(model).__name__
    return known or ("ForCausalLM" if name.endswith("LMHeadModel") else name)


def _vocabulary(config: Any) -> int | None:
    return getattr(config.get_text_config(), "vocab_size", None)


def _names_labels(config: Any) -> bool:
    return not any(str(label).startswith("LABEL_") for label in config.id2label.values())


class DistillationMixin:
    """A mixin for Trainers that distils from `args.teacher`; a no-op without a teacher."""

    args: Any
    model: Any
    accelerator: Any

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of the parent, in training mixed with the teacher's."""
        parent: Any = super()
        if not (model.training and getattr(self.args, "teacher", None)):
            return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.args.distill_hidden_weight:
            inputs = {**inputs, "output_hidden_states": True}
        complete = dict(inputs)  # the parent may remove the labels
        task_loss, outputs = parent.compute_loss(model, inputs, True, num_items_in_batch)
        distilled = self._distillation_loss(complete, outputs)
        distilled = distilled * share_of_update(self, num_items_in_batch)
        loss = (1 - self.args.distill_weight) * task_loss + distilled
        return (loss, outputs) if return_outputs else loss

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, which may name another teacher."""
        parent: Any = super()
        parent._hp_search_setup(trial)
        self.__dict__.pop("_teacher", None)

    @cached_property
    def _teacher(self) -> Any:
        """The teacher, loaded and compared with the student at the first batch.

        Under FSDP2 it is sharded as the student is.
        """
        tokenizer = getattr(self, "processing_class", None)
        teacher = load_teacher(self.args.teacher, self.model, tokenizer)
        if self.accelerator.is_fsdp2:
            return fsdp2_prepare_model(self.accelerator, teacher)
        return teacher

    def _distillation_loss(self, inputs: Mapping[str, Any], outputs: Any) -> Tensor:
        teacher = self._teacher
        accepted = {*inspect.signature(teacher.forward).parameters, "output_hidden_states"}
        if not teacher.config.is_encoder_decoder:  # these derive decoder inputs from the labels
            accepted.discard("labels")  # else the teacher would compute a loss that is not used
        with torch.no_grad(), self.accelerator.autocast():
            target = teacher(**{name: value for name, value in inputs.items() if name in accepted})
        loss = self.args.distill_weight * self._logits_loss(inputs, outputs, target)
        if not self.args.distill_hidden_weight:
            return loss
        return loss + self.args.distill_hidden_weight * _all_hidden(inputs, outputs, target)

    def _logits_loss(self, inputs: Mapping[str, Any], outputs: Any, target: Any) -> Tensor:
        temperature = self.args.distill_temperature
        if "start_logits" in outputs:  # of an answer: two distributions over the tokens
            ends = ("start_logits", "end_logits")
            losses = [logits_loss(outputs[end], target[end], temperature) for end in ends]
            return torch.stack(losses).mean()
        shifted = _task(self.model) == "ForCausalLM" and not self.model.config.is_encoder_decoder
        counts = counted_rows(outputs["logits"], inputs.get("labels"), shifted=shifted)
        return logits_loss(outputs["logits"], target["logits"], temperature, counts)


def _all_hidden(inputs: Mapping[str, Any], outputs: Any, target: Any) -> Tensor:
    """Sum the losses of the hidden states of an encoder and of a decoder, as far as present."""
    kinds = {
        "hidden_states": inputs.get("attention_mask"),
        "encoder_hidden_states": inputs.get("attention_mask"),
        "decoder_hidden_states": inputs.get("decoder_attention_mask"),
    }
    losses = [
        hidden_loss(outputs[kind], target[kind], None if mask is None else mask.bool())
        for kind, mask in kinds.items()
        if kind in outputs
    ]
    return torch.stack(losses).sum()
