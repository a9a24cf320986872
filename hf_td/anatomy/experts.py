"""Proves which slices of the parameters of experts belong to which neuron.

The gradient of a linear layer's weight is what went into it, times what came back. So the input
channels of a stack of layers, which no hook can see inside of a forward that is all functions, are
the columns of its gradient, and the gradient of chosen columns reaches the rows that feed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_td.anatomy.blocks import Block, Projection, Role
from hf_td.anatomy.probe import features_by_unit, number_rows
from hf_td.modules.layouts import Stack, stacks_of

# All experts run the same code: two are enough to see that they are apart.
_EXPERTS = 2
_TOKENS = 8
_CHOICE = "_experts_implementation_internal"


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """Run experts one by one: the fused kernels take neither float64 nor every width."""
    settings = {id(s): s for s in (_settings_of(module) for module in model.modules())}
    chosen = [s for s in settings.values() if _CHOICE in s]
    before = [s[_CHOICE] for s in chosen]
    try:
        for setting in chosen:
            setting[_CHOICE] = "eager"
        yield
    finally:
        for setting, choice in zip(chosen, before, strict=True):
            setting[_CHOICE] = choice


def _settings_of(module: nn.Module) -> dict[str, Any]:
    """What the config of a module itself says; the public name would also change other configs."""
    return getattr(getattr(module, "config", None), "__dict__", {})


def prove_experts(name: str, module: nn.Module, hidden_size: int) -> Block | None:
    """The block of a module of experts, or None where no split into neurons can be proven.

    Args:
        name: dotted name of the module.
        module: is called with hidden states, the indices of experts and their weights, as in
            `transformers.integrations.moe`.
        hidden_size: of its input.
    """
    stacks = stacks_of(module)
    own = {n: _noise(p) for n, p in module.named_parameters(recurse=False) if p.dim() > 1}
    others = {n: p.detach().float() for n, p in module.named_parameters() if n not in own}
    for consumer in stacks if len(stacks) > 1 else ():
        producers = [stack for stack in stacks if stack is not consumer]
        probe = _Probe.run(module, {**others, **own}, hidden_size, consumer, producers)
        block = _prove(name, probe)
        if block is not None:
            return block
    return None


def _noise(parameter: Tensor) -> Tensor:
    """Positive numbers keep rectified activations alive; small ones, those that are clamped."""
    shape = (min(_EXPERTS, parameter.shape[0]), *parameter.shape[1:])
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    return (noise / max(shape[1:])).to(parameter.device).requires_grad_()


@dataclass(frozen=True, eq=False)
class _Probe:
    """Sends gradients from the columns of one stack's gradient to the rows of the others.

    Attributes:
        columns: `(experts, channels)`, the gradient summed over the outputs of the stack.
        consumer: the stack.
        producers: the others.
        leaves: their parameters, of the experts that are looked at.
    """

    columns: Tensor
    consumer: Stack
    producers: list[Stack]
    leaves: list[Tensor]

    @classmethod
    def run(
        cls,
        module: nn.Module,
        leaves: dict[str, Tensor],
        hidden_size: int,
        consumer: Stack,
        producers: list[Stack],
    ) -> _Probe:
        """Run the module once on noise."""
        leaf = leaves[consumer.name]
        draw = torch.Generator().manual_seed(1)
        hidden = (torch.rand(_TOKENS, hidden_size, generator=draw) + 0.5).to(leaf.device)
        index = (torch.arange(_TOKENS, device=leaf.device) % leaf.shape[0])[:, None]
        with torch.enable_grad(), eager_experts(module):
            output = functional_call(
                module, leaves, (hidden, index, torch.ones_like(hidden[:, :1]))
            )
            (grad,) = torch.autograd.grad(output.sum(), leaf, create_graph=True)
        columns = grad.sum(consumer.layout.unit_dim)
        return cls(columns, consumer, producers, [leaves[p.name] for p in producers])

    def gradients(self, choice: Tensor) -> list[Tensor]:
        """For each producer, `(experts, rows)`: whether that row got a gradient."""
        grads = torch.autograd.grad(
            self.columns,
            self.leaves,
            choice.to(self.columns).expand_as(self.columns),
            retain_graph=True,
            materialize_grads=True,
        )
        pairs = zip(grads, self.producers, strict=True)
        return [(g != 0).any(producer.layout.fan_in_dim).cpu() for g, producer in pairs]

    def reached(self, choice: Tensor) -> list[Tensor]:
        """For each producer, `(rows,)`: whether a gradient through chosen channels reaches it."""
        return [hit.any(0) for hit in self.gradients(choice)]

    def is_apart(self) -> bool:
        """Whether no expert reads what another one computes."""
        first = torch.zeros(self.columns.shape[0], 1)
        first[0] = 1
        return not any(hit[1:].any() for hit in self.gradients(first))

    def bends(self, place: int, rows: Tensor) -> bool:
        """Whether the channels are nonlinear in these rows: a gate is, what it gates is not."""
        leaf, dim = self.leaves[place], self.producers[place].layout.unit_dim
        (slope,) = torch.autograd.grad(self.columns.sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return False
        chosen = slope.index_select(dim, rows.to(leaf.device)).sum()
        (bend,) = torch.autograd.grad(chosen, leaf, retain_graph=True, materialize_grads=True)
        return bool((bend.index_select(dim, rows.to(leaf.device)) != 0).any())


def _prove(name: str, probe: _Probe) -> Block | None:
    units = probe.columns.shape[1]
    if not probe.columns.requires_grad or not probe.is_apart():
        return None
    sizes = [p.weight.shape[p.layout.unit_dim] for p in probe.producers]
    numbers = number_rows(torch.arange(units), probe.reached, sizes, units)
    features = [features_by_unit(number, number >= 0, units) for number in numbers]
    if any(f is None for f in features):
        return None
    consumer = Projection(f"{name}.{probe.consumer.name}", "down", torch.arange(units)[:, None])
    producers = tuple(_producers(name, probe, [f for f in features if f is not None]))
    return Block(name, "feed_forward", units, producers, consumer)


def _producers(name: str, probe: _Probe, features: list[Tensor]) -> Iterator[Projection]:
    """One projection for each row that a neuron has: gate and up apart, fused or not."""
    alone = sum(f.shape[1] for f in features) == 1
    for place, found in enumerate(features):
        for rows in found.unbind(1):
            role: Role = "gate" if not alone and probe.bends(place, rows) else "up"
            yield Projection(f"{name}.{probe.producers[place].name}", role, rows[:, None])
