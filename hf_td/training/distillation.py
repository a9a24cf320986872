"""Distillation: a dense teacher that was fine-tuned on the task tells more than its labels do.

Hinton et al., arXiv 1503.02531; of hidden states, as in DistilBERT and TinyBERT, the mean squared
error.
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
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from hf_td.training.losses import share_of_update

_IGNORED = -100  # the label of a token that does not count


@dataclass
class DistillationFields:
    """The settings of distillation, one flat field each."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "a model that was fine-tuned on the task, to distil from: folder or id"},
    )
    distill_temperature: float = field(
        default=2.0, metadata={"help": "by which logits of student and teacher are divided"}
    )
    distill_weight: float = field(
        default=0.9,
        metadata={"help": "of the teacher's logits in the loss; the labels have the rest, [0, 1]"},
    )
    distill_hidden_weight: float = field(
        default=0.0,
        metadata={"help": "of the mean squared error of hidden states, which is added to the loss"},
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
    """The divergence of the student's distribution from the teacher's, a mean over rows.

    With one output, a regression, it is the mean squared error. A divergence is multiplied by the
    square of the temperature, so that its gradients keep their size.

    Args:
        student: logits, `(..., classes)`.
        teacher: logits of the same shape.
        temperature: by which both are divided, positive.
        counts: boolean `(...)`, which rows count; None for all. Without any the loss is 0.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        each = (student - teacher).square().squeeze(-1)
    else:
        predicted = F.log_softmax(student / temperature, dim=-1)
        wanted = F.log_softmax(teacher / temperature, dim=-1)
        each = F.kl_div(predicted, wanted, log_target=True, reduction="none").sum(-1)
        each = each * temperature**2
    return _mean(each, counts)


def hidden_loss(student: Any, teacher: Any, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of the hidden states of matching layers, a mean over layers and tokens.

    Args:
        student: a sequence of tensors `(batch, tokens, width)`, one for each layer.
        teacher: of the same length and shapes.
        counts: boolean `(batch, tokens)`, which tokens count; None for all.

    Raises:
        ValueError: the numbers of layers or the widths differ.
    """
    _check_alike("layers with hidden states", len(student), len(teacher))
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        _check_alike("the width of a layer", ours.shape[-1], theirs.shape[-1])
        each = (ours.float() - theirs.float()).square().mean(-1)
        losses.append(_mean(each, counts if each.shape == getattr(counts, "shape", None) else None))
    return torch.stack(losses).mean()


def _check_alike(what: str, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise ValueError(
            f"hidden states can be distilled between models that are alike, but {what}: {ours} in "
            f"the student, {theirs} in the teacher; set distill_hidden_weight to 0"
        )


def _mean(each: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return each.mean()
    return (each * counts).sum() / counts.sum().clamp(min=1)


def counted_rows(logits: Tensor, labels: Tensor | None, *, shifted: bool) -> Tensor | None:
    """Which rows of the logits have a label; None where all do.

    Args:
        logits: `(batch, tokens, classes)`, or `(batch, classes)`.
        labels: `(batch, tokens)` for the former; -100 where there is none.
        shifted: whether the logits of a token are about the label of the next one.
    """
    if labels is None or labels.shape != logits.shape[:-1] or labels.is_floating_point():
        return None
    if shifted:
        labels = F.pad(labels[..., 1:], (0, 1), value=_IGNORED)
    return labels != _IGNORED


@lru_cache(maxsize=1)  # seeds that are trained one after the other share one teacher
def _load(
    name: str, files: tuple[Any, ...], dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name)
    known = [a for a in config.architectures or () if hasattr(transformers, a)]
    if not known:
        raise ValueError(
            f"the teacher {name} is of no class that transformers has: its config names "
            f"{config.architectures}"
        )
    model = getattr(transformers, known[0]).from_pretrained(name, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def _files(name: str) -> tuple[Any, ...]:
    """Tells a folder from the same one written anew; nothing of an id on the Hub."""
    files = [path for path in sorted(Path(name).glob("*")) if path.is_file()]
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def load_teacher(name: str, student: PreTrainedModel, tokenizer: Any = None) -> PreTrainedModel:
    """The teacher, in eval mode and without gradients, on the device of the student.

    It is kept, and given again as long as its files stay as they are, until another is loaded or
    `forget_teacher` is called.

    Args:
        name: folder, or id on the Hub.
        student: whose task it must have.
        tokenizer: the student's, which must have the same vocabulary; None where it has none.

    Raises:
        ValueError: task, vocabulary or labels differ.
    """
    parameter = next(student.parameters())
    teacher = _load(name, _files(name), parameter.dtype, parameter.device)
    ours, theirs = student.config, teacher.config
    _check_equal(name, "the task", _task(student), _task(teacher))
    if ours.problem_type == "multi_label_classification":
        raise ValueError("logits of several labels at once are not one distribution to distil")
    _check_equal(name, "the size of the vocabulary", _vocabulary(ours), _vocabulary(theirs))
    _check_equal(name, "the number of labels", ours.num_labels, theirs.num_labels)
    if _names_labels(ours) and _names_labels(theirs):
        _check_equal(name, "the labels", ours.id2label, theirs.id2label)
    if hasattr(tokenizer, "get_vocab"):
        _check_tokens(name, tokenizer)
    return teacher


def forget_teacher() -> None:
    """Let go of the memory of the teacher that `load_teacher` keeps."""
    _load.cache_clear()


def _check_equal(name: str, what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(
            f"the teacher {name} does not fit the student: {what} is {theirs}, not {ours}"
        )


def _check_tokens(name: str, tokenizer: Any) -> None:
    try:
        theirs = AutoTokenizer.from_pretrained(name).get_vocab()
    except (OSError, ValueError):
        return  # saved without a tokenizer: the sizes have to do
    if theirs != tokenizer.get_vocab():
        raise ValueError(f"the teacher {name} does not fit the student: its vocabulary is another")


def _task(model: PreTrainedModel) -> str:
    """What transformers calls its loss, such as ForSequenceClassification."""
    known, name = getattr(model, "loss_type", None), type(model).__name__
    return known or ("ForCausalLM" if name.endswith("LMHeadModel") else name)


def _vocabulary(config: Any) -> int | None:
    return getattr(config.get_text_config(), "vocab_size", None)


def _names_labels(config: Any) -> bool:
    return not any(str(label).startswith("LABEL_") for label in config.id2label.values())


class DistillationMixin:
    """Makes a Trainer distil from `args.teacher`; without one it does nothing."""

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
        """The loss of the parent; in training, the teacher's part of it."""
        parent: Any = super()
        if not (model.training and getattr(self.args, "teacher", None)):
            return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.args.distill_hidden_weight:
            inputs = {**inputs, "output_hidden_states": True}
        shown = dict(inputs)  # the parent may take the labels out
        task, outputs = parent.compute_loss(model, inputs, True, num_items_in_batch)
        taught = self._taught_loss(shown, outputs) * share_of_update(self, num_items_in_batch)
        loss = (1 - self.args.distill_weight) * task + taught
        return (loss, outputs) if return_outputs else loss

    @cached_property
    def _teacher(self) -> PreTrainedModel:
        """Loaded, and compared with the student, at the first batch."""
        tokenizer = getattr(self, "processing_class", None)
        return load_teacher(self.args.teacher, self.model, tokenizer)

    def _taught_loss(self, inputs: Mapping[str, Any], outputs: Any) -> Tensor:
        teacher = self._teacher
        read = {*inspect.signature(teacher.forward).parameters, "output_hidden_states"}
        if not teacher.config.is_encoder_decoder:  # others make a decoder's inputs of them
            read.discard("labels")  # or the teacher would compute a loss that nobody reads
        with torch.no_grad(), self.accelerator.autocast():
            wanted = teacher(**{name: value for name, value in inputs.items() if name in read})
        loss = self.args.distill_weight * self._logits_loss(inputs, outputs, wanted)
        if not self.args.distill_hidden_weight:
            return loss
        return loss + self.args.distill_hidden_weight * _all_hidden(inputs, outputs, wanted)

    def _logits_loss(self, inputs: Mapping[str, Any], outputs: Any, wanted: Any) -> Tensor:
        if "start_logits" in outputs:
            return self._ends_loss(outputs, wanted)
        shifted = _task(self.model) == "ForCausalLM" and not self.model.config.is_encoder_decoder
        counts = counted_rows(outputs["logits"], inputs.get("labels"), shifted=shifted)
        temperature = self.args.distill_temperature
        return logits_loss(outputs["logits"], wanted["logits"], temperature, counts)

    def _ends_loss(self, outputs: Any, wanted: Any) -> Tensor:
        """Of an answer's start and end, each a distribution over the tokens; their mean."""
        losses = [
            logits_loss(outputs[end], wanted[end], self.args.distill_temperature)
            for end in ("start_logits", "end_logits")
        ]
        return torch.stack(losses).mean()


def _all_hidden(inputs: Mapping[str, Any], outputs: Any, wanted: Any) -> Tensor:
    """Of an encoder, of a decoder, or of both."""
    kinds = {
        "hidden_states": inputs.get("attention_mask"),
        "encoder_hidden_states": inputs.get("attention_mask"),
        "decoder_hidden_states": inputs.get("decoder_attention_mask"),
    }
    losses = [
        hidden_loss(outputs[kind], wanted[kind], None if mask is None else mask.bool())
        for kind, mask in kinds.items()
        if kind in outputs
    ]
    return torch.stack(losses).sum()
