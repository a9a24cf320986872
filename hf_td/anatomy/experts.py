"""Proves which slices of the parameters of experts belong to which neuron.

The forward of experts calls functions, not modules, so no stub or hook sees the input of a stack.
But the gradient of a linear layer's weight is its input times the upstream gradient. So the columns
of that gradient stand for the input channels, and a gradient sent back through chosen columns
reaches the rows that feed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_td.anatomy.blocks import Block, Projection
from hf_td.anatomy.probe import bends, neuron_producers, number_rows
from hf_td.anatomy.trace import evaluating
from hf_td.modules.layouts import Stack, stacks_of

# All experts run the same code, so two suffice to prove that they are independent.
_EXPERTS = 2
_TOKENS = 8
_CHOICE = "_experts_implementation_internal"


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """Run experts one by one; restore the implementation on exit.

    The fused kernels accept neither float64 nor every width.
    """
    # The attributes themselves: the public property would also change nested configs.
    configs = (getattr(module, "config", None) for module in model.modules())
    settings = {id(s): s for s in (getattr(config, "__dict__", {}) for config in configs)}
    chosen = [s for s in settings.values() if _CHOICE in s]
    before = [s[_CHOICE] for s in chosen]
    try:
        for setting in chosen:
            setting[_CHOICE] = "eager"
        yield
    finally:
        for setting, choice in zip(chosen, before, strict=True):
            setting[_CHOICE] = choice


def prove_experts(name: str, module: nn.Module, hidden_size: int) -> Block | None:
    """Return the block of a module of experts, or None if no split into neurons can be proven.

    Args:
        name: dotted name of the module.
        module: takes hidden states, the indices of experts and their weights, as in
            `transformers.integrations.moe`.
        hidden_size: size of the hidden states.
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
    """Return noise in the shape of two experts.

    Positive numbers keep rectified activations alive, small ones keep clamped activations alive.
    """
    shape = (min(_EXPERTS, parameter.shape[0]), *parameter.shape[1:])
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    return (noise / max(shape[1:])).to(parameter.device).requires_grad_()


@dataclass(frozen=True, eq=False)
class _Probe:
    """Sends gradients from the columns of one stack's gradient to the rows of the other stacks.

    Attributes:
        columns: gradient of the consumer summed over its outputs, `(experts, channels)`.
        consumer: the one stack.
        producers: the other stacks.
        leaves: noise in the shape of the producers, of two experts each.
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
        """Run the module once on noise, with noise for its weights."""
        leaf = leaves[consumer.name]
        draw = torch.Generator().manual_seed(1)
        hidden = (torch.rand(_TOKENS, hidden_size, generator=draw) + 0.5).to(leaf.device)
        index = (torch.arange(_TOKENS, device=leaf.device) % leaf.shape[0])[:, None]
        with torch.enable_grad(), evaluating(module), eager_experts(module):
            output = functional_call(
                module, leaves, (hidden, index, torch.ones_like(hidden[:, :1]))
            )
            (grad,) = torch.autograd.grad(output.sum(), leaf, create_graph=True)
        columns = grad.sum(consumer.layout.unit_dim)
        return cls(columns, consumer, producers, [leaves[p.name] for p in producers])

    def gradients(self, choice: Tensor) -> list[Tensor]:
        """Return for each producer which rows feed the chosen columns, `(experts, rows)`."""
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
        """Return for each producer which rows feed the chosen columns in any expert, `(rows,)`."""
        return [hit.any(0) for hit in self.gradients(choice)]

    def is_apart(self) -> bool:
        """Return True if no expert reads the neurons of another expert."""
        first = torch.zeros(self.columns.shape[0], 1)
        first[0] = 1
        return not any(hit[1:].any() for hit in self.gradients(first))

    def bends(self, place: int, rows: Tensor) -> bool:
        """Return True if the channels are nonlinear in some rows of a producer."""
        dim = self.producers[place].layout.unit_dim
        return bends(self.columns, self.leaves[place], rows, dim)


def _prove(name: str, probe: _Probe) -> Block | None:
    """Return the block whose neurons the consumer of a probe reads, if they can be proven."""
    units = probe.columns.shape[1]
    if not probe.columns.requires_grad or not probe.is_apart():
        return None
    sizes = [p.weight.shape[p.layout.unit_dim] for p in probe.producers]
    numbers = number_rows(torch.arange(units), probe.reached, sizes, units)
    names = [f"{name}.{p.name}" for p in probe.producers]
    producers = neuron_producers(names, numbers, units, probe.bends)
    if producers is None:
        return None
    consumer = Projection(f"{name}.{probe.consumer.name}", "down", torch.arange(units)[:, None])
    return Block(name, "feed_forward", units, tuple(producers), consumer)
