"""Linear layers that drop what targeted dropout chose for the current update.

A layer holds one mask, `keep`, which is drawn outside of its forward (once per update, see
`hf_td.patching`) and only read here: so every micro-batch, every recomputation of a checkpointed
activation and every call of a shared layer sees the same mask, and a compiled forward never
recompiles. In eval mode a layer is its stock class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from hf_td import functional


class TargetedMixin:
    """What the targeted classes share: the mask, and the change of class that keeps the module.

    Attributes:
        keep: what multiplies `weight` while training; broadcastable to it, not saved.
    """

    weight: nn.Parameter
    keep: Tensor

    def effective_weight(self) -> Tensor:
        """The weight that this update uses."""
        return functional.masked(self.weight, self.keep)


class TargetedLinear(TargetedMixin, nn.Linear):
    """`nn.Linear` under targeted dropout; `weight` is `(out, in)`."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(input)
        return F.linear(input, self.effective_weight(), self.bias)


class TargetedConv1D(TargetedMixin, Conv1D):
    """GPT-2's `Conv1D` under targeted dropout; `weight` is `(in, out)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.training:
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1])
        return torch.addmm(self.bias, flat, self.effective_weight()).view(*x.shape[:-1], self.nf)


# Stock class to targeted class. Another layout is another row here and in anatomy/layouts.py.
TARGETED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TargetedLinear,
    Conv1D: TargetedConv1D,
}


def check_targetable(name: str, module: nn.Module) -> None:
    """Raise unless `target` can be applied to the module.

    Args:
        name: dotted name of the module, for the message.
        module: a linear layer.

    Raises:
        TypeError: the class has no targeted variant, or its forward was replaced.
    """
    stock = type(module)
    if stock not in TARGETED:
        known = [cls.__name__ for cls in TARGETED]
        raise TypeError(
            f"cannot target {name}: expected a layer of exactly one of the classes {known}, "
            f"got {stock.__module__}.{stock.__name__}; exclude it by exclude=[{name!r}]"
        )
    if "forward" in module.__dict__:
        raise TypeError(
            f"cannot target {name}: its forward was replaced on the instance, as device_map hooks "
            "and kernel patches do; patch the model before, or load it without them"
        )


def target(module: nn.Module, keep: Tensor) -> None:
    """Turn a linear layer into its targeted class, in place.

    The module stays the same object with the same parameters, hooks and flags, so optimisers,
    tied weights and modules that occur twice need no attention.

    Args:
        module: of a class in `TARGETED`.
        keep: the first mask, broadcastable to `module.weight`.
    """
    module.__class__ = TARGETED[type(module)]
    module.register_buffer("keep", keep, persistent=False)


def restore(module: nn.Module) -> None:
    """Turn a targeted layer back into its stock class, in place."""
    stock = next(s for s, targeted in TARGETED.items() if type(module) is targeted)
    del module.keep
    module.__class__ = stock


def is_targeted(module: nn.Module) -> bool:
    """Whether the module is a targeted layer."""
    return isinstance(module, TargetedMixin)
