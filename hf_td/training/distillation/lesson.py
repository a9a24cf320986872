"""A batch of distillation, with the outputs of both models, and which rows and tokens count."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.training.distillation.losses import IGNORED, counted_tokens

_INSTEAD = "Give another preset (distill), or set the weight of this term to 0"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A batch, and the outputs of both models for it.

    Attributes:
        inputs: keyword arguments of the student's forward, with the labels if there are any.
        student: outputs of the student.
        teacher: outputs of the teacher.
        model: the student; None if its tokens are those of its mask.
        temperature: divisor of the logits, positive.
        shifted: true if the logits of a token predict the next token.
        regression: true if logits are numbers, not those of classes.
        maps: linear maps of the hidden states by the index of the state; empty for equal widths.
    """

    inputs: Mapping[str, Any]
    student: Any
    teacher: Any
    model: Any = None
    temperature: float = 2.0
    shifted: bool = False
    regression: bool = False
    maps: Mapping[int, nn.Module] = field(default_factory=lambda: MappingProxyType({}))

    def both(self, name: str) -> tuple[Any, Any]:
        """Return an output of the student, and the same of the teacher.

        Raises:
            ValueError: a model returns none.
        """
        for who, outputs in (("student", self.student), ("teacher", self.teacher)):
            if name not in outputs:
                raise ValueError(
                    f"the {who} returns no {name} that could be distilled, only "
                    f"{', '.join(outputs)}. {_INSTEAD}"
                )
        return self.student[name], self.teacher[name]

    def summed(self, kind: str, loss: Callable[[Sequence[Any], Sequence[Any], Any], Tensor]) -> Any:
        """Sum a loss over the stacks of the models that return an output of a kind.

        Args:
            kind: `hidden_states` or `attentions`.
            loss: called with what student and teacher return, and a mask of the tokens or None.

        Raises:
            ValueError: a model returns none.
        """
        masks = {"": self._mask, "encoder_": self._mask, "decoder_": self._decoder_mask}
        losses = []
        for stack, mask in masks.items():
            if f"{stack}{kind}" in self.student:
                ours, theirs = self.both(f"{stack}{kind}")
                tokens = ours[0].shape[-2] if ours else 0
                losses.append(loss(ours, theirs, mask(tokens)))
        if not losses:
            self.both(kind)
        return torch.stack(losses).sum()

    def counted(self, logits: Tensor) -> Tensor | None:
        """Return a mask of the rows of logits that count; None for all."""
        mask = self.inputs.get("attention_mask")
        if mask is not None and logits.dim() > 2:
            mask = self._of_frames(mask, logits.shape[-2])
        return counted_tokens(logits, self.labels, mask, shifted=self.shifted)

    @property
    def labels(self) -> Tensor | None:
        """The labels; None where there are none, or a list of them as in object detection."""
        labels = self.inputs.get("labels")
        return labels if isinstance(labels, Tensor) else None

    def _mask(self, tokens: int) -> Tensor | None:
        mask = self.inputs.get("attention_mask")
        if mask is None:
            return None
        if mask.dim() == 3:  # each choice of a row is a row of the model
            mask = mask.flatten(0, 1)
        return self._of_frames(mask, tokens, add_adapter=False).bool()

    def _of_frames(self, mask: Tensor, frames: int, **options: Any) -> Tensor:
        """Return the mask of the frames that a speech model makes of samples."""
        made: Any = getattr(self.model, "_get_feature_vector_attention_mask", None)
        if made is None or mask.shape[-1] == frames:
            return mask
        known = inspect.signature(made).parameters
        return made(frames, mask, **{n: value for n, value in options.items() if n in known})

    def _decoder_mask(self, tokens: int) -> Tensor | None:
        """Return the tokens of a decoder that count; without a mask those that have a label.

        A decoder without inputs or labels of its own, as that of BART's classifiers, reads the text
        once more.
        """
        mask = self.inputs.get("decoder_attention_mask")
        if mask is not None:
            return mask.bool()
        if self.labels is not None and self.labels.dim() > 1:
            return self.labels != IGNORED
        return None if "decoder_input_ids" in self.inputs else self._mask(tokens)
