"""Keeps what is pruned at zero in further training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hf_td import kernels
from hf_td.modules.layouts import linear_layout, stacks_of


class KeptPruned:
    """The hooks of `keep_pruned`, until `remove` or the end of a `with` block.

    Attributes:
        entries: number of weights and biases that stay zero.
    """

    def __init__(self, entries: int, handles: Iterable[RemovableHandle]) -> None:
        self.entries = entries
        self._handles = list(handles)

    @property
    def active(self) -> bool:
        """True until `remove`."""
        return bool(self._handles)

    def remove(self) -> None:
        """Let all weights learn again."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> KeptPruned:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def keep_pruned(model: nn.Module, optimizer: Optimizer | None = None) -> KeptPruned:
    """Train a pruned model on with its zeros fixed, in any loop or Trainer.

    The zeros of linear layers, Conv1D layers and stacked experts get no gradient, in any pattern. A
    bias stays zero where its whole row is zero. An optimiser that has no momentum for them leaves
    them as they are, with weight decay too. Nothing is stored: what is zero when a gradient arrives
    stays zero.

    Args:
        model: a model pruned by `prune_model`, not patched; as it is trained, before
            `DistributedDataParallel` wraps it. Of a patched model `fix_pattern` keeps the zeros.
        optimizer: an optimiser that has made updates: its momentum of the zeros is cleared. None
            for one that is made after pruning.

    Returns:
        A handle, also a context manager, that ends it.

    Raises:
        TypeError: the optimiser packs its momentum, which cannot be cleared in part.
        ValueError: no weight is zero.
    """
    handles, entries = [], 0
    for weight, bias, dim in _rows(model):
        if not weight.requires_grad:
            continue
        entries += int((weight == 0).sum())
        _forget(optimizer, weight, weight == 0)
        handles.append(weight.register_post_accumulate_grad_hook(_keep_zeros))
        if bias is not None and bias.requires_grad:
            empty = (bias == 0) & _empty(weight, dim)
            entries += int(empty.sum())
            _forget(optimizer, bias, empty)
            handles.append(bias.register_post_accumulate_grad_hook(_keep_bias(weight, dim)))
    kept = KeptPruned(entries, handles)
    if not entries:
        kept.remove()
        raise ValueError("the model has no weights of zero that could be kept: prune it first")
    return kept


def _rows(model: nn.Module) -> Iterator[tuple[Tensor, Tensor | None, int]]:
    """Yield each weight once, with its bias and the dimension that runs over its inputs."""
    seen: set[int] = set()
    for module in model.modules():
        layout: Any = linear_layout(module)
        layers: list[Any] = [(module, layout)] if layout else []
        layers += [(stack, stack.layout) for stack in stacks_of(module)]
        for layer, dims in layers:
            if id(layer.weight) not in seen:
                seen.add(id(layer.weight))
                yield layer.weight, layer.bias, dims.fan_in_dim


def _forget(optimizer: Optimizer | None, parameter: Tensor, zeros: Tensor) -> None:
    """Clear what an optimiser remembers of these entries of a parameter."""
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            continue
        if not value.is_floating_point():
            raise TypeError(
                f"{type(optimizer).__name__} keeps {name} as {value.dtype}, where no single entry "
                "can be cleared, so the zeros would not stay. Use an optimiser whose state is "
                "floating point, or make a new one after pruning"
            )
        value.masked_fill_(zeros, 0)


def _keep_zeros(parameter: Tensor) -> None:
    assert parameter.grad is not None
    kernels.clear(parameter.grad, parameter == 0)


def _keep_bias(weight: Tensor, dim: int) -> Any:
    def hook(bias: Tensor) -> None:
        assert bias.grad is not None
        bias.grad.masked_fill_((bias == 0) & _empty(weight, dim), 0)

    return hook


@torch.no_grad()
def _empty(weight: Tensor, dim: int) -> Tensor:
    """Return True for the output units whose weights are all zero, in the shape of the bias."""
    return (weight == 0).all(dim)


@contextmanager
@torch.no_grad()
def zeros_restored(model: nn.Module) -> Iterator[None]:
    """Set the weights that are zero now to zero again at the end of the block.

    It is for what writes all weights at once, such as the merge of adapters:
    `with zeros_restored(model): merged = model.merge_and_unload()`.

    Args:
        model: a pruned model, with adapters beside its weights or without.
    """
    zeros = [(weight, weight == 0) for weight, _, _ in _rows(model)]
    yield
    for weight, zero in zeros:
        kernels.clear(weight, zero)
