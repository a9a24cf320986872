"""The losses of distillation on plain tensors.

The loss of logits is that of Hinton et al. (arXiv 1503.02531). The losses of hidden states and of
attention are squared errors, as in DistilBERT and TinyBERT (arXiv 1909.10351).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100  # the label of a token or a row that is left out of the loss


def logits_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    counts: Tensor | None = None,
    *,
    regression: bool = False,
) -> Tensor:
    """Return the divergence of the student's distribution from the teacher's, a mean over rows.

    Of a regression, as where there is one output, it is the mean squared error. The divergence is
    multiplied by the square of the temperature, which keeps the scale of its gradients.

    Args:
        student: logits, `(..., classes)`.
        teacher: logits of the same shape.
        temperature: the divisor of both, positive.
        counts: boolean `(...)`, true for the rows to average over; None for all. The loss is 0 if
            it is all false.
        regression: true if the logits are numbers, not those of classes.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes("logits", student, teacher)
    student, teacher = student.float(), teacher.float()
    if regression or student.shape[-1] == 1:
        each = (student - teacher).square().mean(-1)
    else:
        predicted = F.log_softmax(student / temperature, dim=-1)
        target = F.log_softmax(teacher / temperature, dim=-1)
        each = F.kl_div(predicted, target, log_target=True, reduction="none").sum(-1)
        each = each * temperature**2
    return _mean(each, counts)


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    counts: Tensor | None = None,
    maps: Sequence[nn.Module] | None = None,
) -> Tensor:
    """Return the mean squared error of the hidden states, a mean over layers and tokens.

    Each state of the student is compared with the teacher's at the same relative depth: the first
    with the first, the last with the last.

    Args:
        student: states `(batch, tokens, width)`, of the embeddings and of each layer.
        teacher: states of the teacher; their number can differ.
        counts: boolean `(batch, tokens)`, true for the tokens to average over; None for all.
        maps: a module for each state of the student, which takes it to the teacher's width; None
            where the widths are equal.

    Raises:
        ValueError: the shapes of two states differ.
    """
    losses = []
    for i, theirs in enumerate(_at_equal_depth(teacher, len(student))):
        ours = student[i].float() if maps is None else maps[i](student[i].float())
        _check_shapes("hidden states", ours, theirs)
        losses.append(_mean((ours - theirs.float()).square().mean(-1), counts))
    return torch.stack(losses).mean()


def attention_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], counts: Tensor | None = None
) -> Tensor:
    """Return the squared distance of the attention of a token, a mean over layers and tokens.

    The distance of two distributions over the tokens is in [0, 2]. Each head is compared with the
    teacher's; where the numbers of heads differ, the means over the heads are compared. The last
    of n layers is compared with the last of the teacher's m, layer i with layer i m / n.

    Args:
        student: probabilities `(batch, heads, tokens, tokens)` of each layer.
        teacher: probabilities of the teacher; the numbers of layers and of heads can differ.
        counts: boolean `(batch, tokens)`, true for the tokens to average over; None for all.

    Raises:
        ValueError: a model returned no attention, or the numbers of tokens differ.
    """
    if not student or not teacher:
        raise ValueError(
            "a model returned no attention maps to distil. Give a preset without attention, or "
            "set distill_attention_weight to 0"
        )
    losses = []
    # The place before the first layer has no map: the first layer's stands in for it.
    for ours, theirs in zip(
        student, _at_equal_depth([teacher[0], *teacher], len(student) + 1)[1:], strict=True
    ):
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        _check_shapes("attention maps", ours, theirs)
        each = (ours.float() - theirs.float()).square().sum(-1).mean(1)
        losses.append(_mean(each, counts))
    return torch.stack(losses).mean()


def labels_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the loss of the labels of a batch in which rows have none, a mean over all rows.

    A row without a label adds nothing, so a labelled row has one weight in every batch.

    Args:
        logits: `(batch, classes)`; `(batch, 1)` for a regression.
        labels: `(batch,)`; see `labelled_rows`.
        smoothing: label smoothing of classes, in [0, 1).
    """
    if labels.is_floating_point():
        errors = (logits.float().squeeze(-1) - labels.nan_to_num()).square()
        return (errors * ~labels.isnan()).mean()
    summed = F.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return summed / len(labels)


def labelled_rows(labels: Tensor | None) -> Tensor | None:
    """Return a mask `(batch,)` of the rows that have a label; None if all have one.

    Args:
        labels: `(batch,)`: a class or -100, a number or NaN. Labels of another shape are those of
            tokens, or of several classes at once: all rows count.
    """
    if labels is None or labels.dim() != 1:
        return None
    there = ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
    return None if bool(there.all()) else there


def counted_tokens(
    logits: Tensor, labels: Tensor | None, attention_mask: Tensor | None, *, shifted: bool
) -> Tensor | None:
    """Return a mask of the tokens whose logits are distilled; None for all rows of the logits.

    These are the tokens with a label. Without labels they are the tokens that are not padding.

    Args:
        logits: `(batch, tokens, classes)`; for logits of whole rows, `(batch, classes)`, all count.
        labels: `(batch, tokens)`; -100 for a token without a label.
        attention_mask: `(batch, tokens)`, 0 for padding.
        shifted: true if the logits of a token predict the label of the next token.
    """
    rows = logits.shape[:-1]
    if len(rows) < 2:
        return None
    if labels is None or labels.shape != rows or labels.is_floating_point():
        if attention_mask is None or attention_mask.shape != rows:
            return None
        return attention_mask.bool()
    if shifted:
        labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED)
    return labels != IGNORED


def _at_equal_depth(states: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return so many of the states, evenly spaced from the first to the last."""
    last = len(states) - 1
    return [states[round(i * last / max(number - 1, 1))] for i in range(number)]


def _check_shapes(what: str, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{what} can be distilled only where their shapes are equal. The student's is "
            f"{tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}. Give another teacher, or a "
            "preset without them (--distill)"
        )


def _mean(each: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None or counts.shape != each.shape:
        return each.mean()
    return (each * counts).sum() / counts.sum().clamp(min=1)
