"""Keeps what is pruned at zero in further training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hf_td import kernels
from hf_td.modules.bodies import body_of
from hf_td.modules.layouts import linear_layout, stacks_of

# A weight, its bias, and the dimension that runs over its inputs.
Row = tuple[Tensor, Tensor | None, int]


class KeptPruned:
    """The hooks of `keep_pruned`, until `remove` or the end of a `with` block.

    Attributes:
        entries: number of weights and biases that stay zero.
        active: True until `remove`.
    """

    def __init__(
        self, entries: int, rows: Iterable[Row], optimizer: Optimizer | None = None
    ) -> None:
        self.entries = entries
        self.active = True
        self._rows = list(rows)
        self._handles: list[Any] = [handle for row in self._rows for handle in _hooks(*row)]
        if optimizer is not None:
            self._handles.append(_Steps(self._rows, optimizer))

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptPruned:
        """Keep the zeros of a copied model too: torch copies no hooks of parameters."""
        copied = KeptPruned(self.entries, copy.deepcopy(self._rows, memo) if self.active else ())
        copied.active = self.active
        return copied

    def remove(self) -> None:
        """Let all weights learn again."""
        self.active = False
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
    stays zero. Adapters of peft learn freely, and so does a head that is all zeros, with which some
    training begins. After a step of an optimiser that mixes entries, as Muon does, zeros are
    restored; such a one has to be given.

    Args:
        model: a model pruned by `prune_model`, not patched; as it is trained, before
            `DistributedDataParallel` wraps it. Of a patched model `fix_pattern` keeps the zeros.
        optimizer: an optimiser that has made updates, or mixes entries: its momentum of the zeros
            is cleared. None for any other that is made after pruning.

    Returns:
        A handle, also a context manager, that ends it.

    Raises:
        TypeError: the optimiser packs its momentum, which cannot be cleared in part.
        ValueError: no weight is zero.
    """
    rows, entries = list(_rows(model)), 0
    for parameter, zeros in _zeros(rows):
        entries += int(zeros.sum())
        _forget(optimizer, parameter, zeros)
    if not entries:
        raise ValueError("the model has no weights of zero that could be kept: prune it first")
    return KeptPruned(entries, rows, optimizer)


def _zeros(rows: Iterable[Row]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each weight and bias, and where it is zero and stays so."""
    for weight, bias, dim in rows:
        yield weight, weight == 0
        if bias is not None:
            yield bias, (bias == 0) & _empty(weight, dim)


def _rows(model: nn.Module) -> Iterator[Row]:
    """Yield each weight once that pruning can have set to zero."""
    seen = _unpruned(model)
    for module in model.modules():
        layout: Any = linear_layout(module)
        layers: list[Any] = [(module, layout)] if layout else []
        layers += [(stack, stack.layout) for stack in stacks_of(module)]
        for layer, dims in layers:
            if id(layer.weight) not in seen:
                seen.add(id(layer.weight))
                yield layer.weight, layer.bias, dims.fan_in_dim


def _unpruned(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of adapters, and of a head that is all zeros."""
    body = {id(p) for p in body_of(model).parameters()}
    found = {id(p) for p in model.parameters() if id(p) not in body and not p.any()}
    for module in model.modules():
        adapted = getattr(module, "base_layer", None)
        if isinstance(adapted, nn.Module):
            inner = {id(p) for p in adapted.parameters()}
            found |= {id(p) for p in module.parameters()} - inner
    return found


def _hooks(weight: Tensor, bias: Tensor | None, dim: int) -> Iterator[RemovableHandle]:
    yield _hooked(weight, _keep_zeros)
    if bias is not None:
        yield _hooked(bias, _keep_bias(weight, dim))


def _hooked(tensor: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Register a hook; also of a frozen tensor, which torch refuses, for it may learn later."""
    frozen = not tensor.requires_grad
    tensor.requires_grad_(True)
    try:
        return tensor.register_post_accumulate_grad_hook(hook)
    finally:
        tensor.requires_grad_(not frozen)


class _Steps:
    """Restores zeros after the steps of an optimiser that mixes entries, such as Muon or GaLore.

    The first step that moves a tensor shows whether it does: one that leaves the zeros alone needs
    no watching from then on. A step at a learning rate of 0, as a warm-up has, shows nothing.
    """

    def __init__(self, rows: Iterable[Row], optimizer: Optimizer) -> None:
        self._rows = list(rows)
        self._safe: set[int] = set()  # ids of the tensors whose zeros a step has left alone
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []  # with the sum before the step
        own: Any = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        before = own.register_step_pre_hook(self._before)
        self._handles = [before, own.register_step_post_hook(self._after)]

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        moving = {id(p) for group in optimizer.param_groups for p in group["params"]} - self._safe
        rows = [row for row in self._rows if any(id(tensor) in moving for tensor in row[:2])]
        found = [(tensor, zeros) for tensor, zeros in _zeros(rows) if id(tensor) in moving]
        self._found = [(tensor, zeros, _sum(tensor)) for tensor, zeros in found]

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        for tensor, zeros, before in self._found:
            if (zeros & (tensor != 0)).any():
                kernels.clear(tensor, zeros)
            elif _sum(tensor) != before:
                self._safe.add(id(tensor))
        self._found = []


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.float32)


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
