"""Runs a model once with every linear layer cut open, to see which layer feeds which.

For one forward, every linear layer is replaced by a stub that returns random numbers as a new leaf
of the autograd graph. So the input of a layer depends only on the layers that feed it directly.
Nothing is multiplied, so the time depends on the number of layers and hardly on their widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.modules.layouts import expert_modules, in_features, linear_layers, out_features

# Every earlier layer feeds a layer that reads the residual stream. No block has that many
# producers, so the search for feeders stops there.
MOST_FEEDERS = 8


@dataclass(frozen=True, eq=False)
class Call:
    """The first call of a linear layer: its input, and the leaf that its stub returned."""

    name: str
    input: Tensor
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class ExpertsCall:
    """The first call of a module of experts, and the size of its input."""

    name: str
    module: nn.Module
    hidden_size: int


@dataclass(frozen=True, eq=False)
class FreeParameter:
    """A parameter that a forward uses outside of linear layers."""

    name: str
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """A recorded forward.

    Attributes:
        called: the first call of each linear layer and module of experts by name, in order. A
            shared layer plays the same role in all of its calls.
        parameters: all parameters of the model.
        outputs: the tensors that the forward returned.
    """

    called: Mapping[str, Call | ExpertsCall]
    parameters: tuple[FreeParameter, ...]
    outputs: tuple[Tensor, ...]

    @property
    def calls(self) -> list[Call]:
        """The calls of linear layers."""
        return [call for call in self.called.values() if isinstance(call, Call)]

    @property
    def experts(self) -> list[ExpertsCall]:
        """The calls of modules of experts."""
        return [call for call in self.called.values() if isinstance(call, ExpertsCall)]

    def feeders(self, call: Call) -> list[Call]:
        """Return the calls that feed the input of `call`, or none if there are too many."""
        found = [s for s in self._search([call.input], MOST_FEEDERS) if isinstance(s, Call)]
        return found if len(found) <= MOST_FEEDERS else []

    def parameters_feeding(self, call: Call) -> list[FreeParameter]:
        """Return the parameters that reach the input of `call`."""
        return [s for s in self._search([call.input]) if isinstance(s, FreeParameter)]

    def feeders_outside(self, consumers: Iterable[Call]) -> set[Call]:
        """Return the calls whose leaves reach anything but the inputs of `consumers`."""
        excepted = set(consumers)
        inputs = [call.input for call in self.calls if call not in excepted]
        found = self._search([*inputs, *self.outputs])
        return {source for source in found if isinstance(source, Call)}

    def _search(
        self, starts: Sequence[Tensor], limit: int | None = None
    ) -> Iterator[Call | FreeParameter]:
        """Walk the autograd graph back to leaves, and stop after `limit` + 1 calls."""
        seen: set[Any] = set()
        stack: list[Any] = [tensor.grad_fn for tensor in starts]
        found = 0
        while stack and (limit is None or found <= limit):
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            source = self._by_leaf.get(id(getattr(node, "variable", None)))
            if source is not None:
                found += isinstance(source, Call)
                yield source
            stack.extend(following for following, _ in node.next_functions)

    @cached_property
    def _by_leaf(self) -> dict[int, Call | FreeParameter]:
        return {id(source.leaf): source for source in (*self.calls, *self.parameters)}


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Run one forward of `model` with its linear layers cut open; the model is left unchanged.

    Call it, and use its result, within `thawed`.

    Args:
        model: any module.
        inputs: keyword arguments of its forward.
    """
    called: dict[str, Call | ExpertsCall] = {}
    with evaluating(model), _stubbed(model, called), torch.enable_grad():
        outputs = model(**inputs)
    parameters = tuple(FreeParameter(name, p) for name, p in model.named_parameters())
    return Trace(called, parameters, tuple(tensors_in(outputs)))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (t for v in value.values() for t in tensors_in(v))
    elif isinstance(value, (list, tuple)):
        yield from (t for v in value for t in tensors_in(v))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode; restore the mode of each module on exit."""
    training = {m: m.training for m in model.modules()}
    if any(training.values()):
        model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            if module.training != mode:
                module.training = mode


@contextmanager
def in_own_type(model: nn.Module) -> Iterator[None]:
    """Remove the autocast that accelerate puts around forwards; restore it on exit."""
    marks = {"forward", "_original_forward"}
    wrapped = [m.__dict__ for m in model.modules() if marks <= m.__dict__.keys()]
    around = [attributes["forward"] for attributes in wrapped]
    for attributes in wrapped:
        attributes["forward"] = attributes["_original_forward"]
    try:
        yield
    finally:
        for attributes, forward in zip(wrapped, around, strict=True):
            attributes["forward"] = forward


@contextmanager
def seeded(model: nn.Module) -> Iterator[None]:
    """Seed the random numbers, since some models (ViLT) draw in eval mode; restore them on exit."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([d for d in devices if d is not None]):
        torch.manual_seed(0)
        yield


@contextmanager
def thawed(model: nn.Module) -> Iterator[None]:
    """Make frozen parameters trainable; freeze them again on exit."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _stubbed(model: nn.Module, called: dict[str, Call | ExpertsCall]) -> Iterator[None]:
    """Put stubs in place of linear layers and experts; restore the forwards on exit."""
    generator = torch.Generator().manual_seed(0)
    layers = {name: m for name, m in linear_layers(model).items() if _returns_a_tensor(m)}
    stubs: dict[Any, Any] = {m: _stub(name, m, called, generator) for name, m in layers.items()}
    for name, module in expert_modules(model).items():
        stubs[module] = _experts_stub(name, module, called, generator)
    replaced = {m: m.__dict__["forward"] for m in stubs if "forward" in m.__dict__}
    try:
        for module, stub in stubs.items():
            module.forward = stub
        yield
    finally:
        for module in stubs:
            del module.__dict__["forward"]
        for module, forward in replaced.items():
            module.forward = forward


def _returns_a_tensor(layer: nn.Module) -> bool:
    """Return False for a router that derives from nn.Linear and returns a tuple."""
    if type(layer).forward is nn.Linear.forward:
        return True
    weight = next(layer.parameters())
    hidden = torch.zeros(1, in_features(layer), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        return isinstance(type(layer).forward(layer, hidden), Tensor)  # runs no hooks of the user


def _stub(
    name: str, layer: nn.Module, called: dict[str, Any], generator: torch.Generator
) -> Callable[..., Tensor]:
    fan_in, width = in_features(layer), out_features(layer)

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        if hidden.shape[-1] != fan_in:
            raise ValueError(f"{name} takes {fan_in} features, got {hidden.shape[-1]}")
        # Positive numbers keep rectified activations alive, so that no neuron looks dead.
        noise = torch.rand(*hidden.shape[:-1], width, generator=generator) + 0.5
        leaf = noise.to(hidden.device, hidden.dtype).requires_grad_()
        called.setdefault(name, Call(name, hidden, leaf))
        return leaf.clone()  # a model may write into the output

    return forward


def _experts_stub(
    name: str, module: nn.Module, called: dict[str, Any], generator: torch.Generator
) -> Callable[..., Tensor]:
    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        called.setdefault(name, ExpertsCall(name, module, hidden.shape[-1]))
        noise = torch.rand(hidden.shape, generator=generator)
        return hidden + noise.to(hidden.device, hidden.dtype)  # the feeders stay visible

    return forward
