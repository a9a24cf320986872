"""Layers of a stack that are passed by: their output is their input.

A layer whose weights are zero changes nothing only where its norms come before its projections:
after a layer of BERT, a norm remains. So a layer that is pruned whole gets a class whose forward
returns its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_td.modules.classes import class_of


class PassedMixin:
    """A layer whose output has the hidden states of its input.

    The stock forward runs all the same. It fills caches, and makes whatever the layer outputs
    beside hidden states, such as the position bias of T5.

    Attributes:
        passed: False to compute as the stock layer.
    """

    passed: bool = True
    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the stock output; if the layer is passed by, with its input as hidden states."""
        parent: Any = super()
        output = parent.forward(*args, **kwargs)
        if not self.passed:
            return output
        hidden = hidden_in(args, kwargs)
        if self.training and _is_distributed():
            hidden = _reached(hidden, hidden_out(output))
        return with_hidden(output, hidden)


class LayerList:
    """A stack of layers, with the attributes of a layer that can be targeted.

    Attributes:
        module: the `ModuleList`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """The first matrix in the stack, which tells its device and type."""
        return next(p for p in self.module.parameters() if p.dim() > 1)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _reached(hidden: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """Return hidden states that a gradient of zero goes through to what is not used.

    `DistributedDataParallel` waits for a gradient of every parameter.
    """
    always = torch.ones((), dtype=torch.bool, device=hidden.device)
    return torch.where(always, hidden, unused.to(hidden.dtype))


def hidden_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Return the hidden states among the arguments of a layer, which come first."""
    return args[0] if args else kwargs["hidden_states"]


def hidden_out(output: Any) -> torch.Tensor:
    """Return the hidden states of a layer's output: a tensor, or a tuple that begins with them."""
    return output if isinstance(output, torch.Tensor) else output[0]


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """Return a layer's output with other hidden states."""
    return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])


def mark_passed(layer: Any, passed: bool = True) -> None:
    """Let a layer be passed by, or not; one that is not gets back its stock class.

    The class keeps the name of the stock class: wrappers of layers look it up by name.
    """
    if passed and not isinstance(layer, PassedMixin):
        layer.__class__ = class_of(PassedMixin, type(layer), "")
    if isinstance(layer, PassedMixin):
        layer.passed = passed
        stock = type(layer).__bases__[-1]
        if not passed and type(layer) is class_of(PassedMixin, stock, ""):
            del layer.__dict__["passed"]
            layer.__class__ = stock


def is_passed(layer: Any) -> bool:
    """Return True for a layer that is passed by in every mode."""
    return isinstance(layer, PassedMixin) and layer.passed


def passed_layers(model: nn.Module) -> list[str]:
    """Return the dotted names of the layers that are passed by."""
    return [name for name, module in model.named_modules() if is_passed(module)]


@contextmanager
def none_passed(model: nn.Module) -> Iterator[None]:
    """Compute with all layers inside the context."""
    layers: list[Any] = [module for module in model.modules() if is_passed(module)]
    for layer in layers:
        layer.passed = False
    try:
        yield
    finally:
        for layer in layers:
            layer.passed = True
