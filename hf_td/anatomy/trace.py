"""Runs a model once with every linear layer cut open, to see which layer feeds which.

Every linear layer is replaced, for one forward, by a stub that returns fresh random numbers as
leaves of the autograd graph. So the input of a layer depends on just those layers that feed it
directly; nothing is multiplied, and a large model is traced as fast as a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.repeats import skipping
from hf_td.modules.layouts import expert_modules, in_features, linear_layers, out_features

# A layer that reads the residual stream is fed by every layer before it. No block has so many
# producers, so the search for feeders stops there.
MOST_FEEDERS = 8


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a linear layer: the tensor that went in, and the leaf that came out."""

    name: str
    input: Tensor
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class ExpertsCall:
    """One call of a module of experts: who it was, and the size of what went in."""

    name: str
    module: nn.Module
    hidden_size: int


@dataclass(frozen=True, eq=False)
class Skipped:
    """A layer that was not run, and the one that it is like."""

    name: str
    like: str


@dataclass(frozen=True, eq=False)
class Given:
    """A parameter that a forward uses outside of linear layers."""

    name: str
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward showed.

    Attributes:
        calls: one call for each linear layer, in order. A layer that is shared is called again
            and again, always in the same role.
        experts: one call for each module of experts.
        given: the parameters of everything that is not a linear layer.
        outputs: the tensors that the forward returned.
        order: the running number of each call, by name; a layer that was skipped has one too.
        skipped: names of layers that are like others, with the name of the one that each is like.
    """

    calls: tuple[Call, ...]
    experts: tuple[ExpertsCall, ...]
    given: tuple[Given, ...]
    outputs: tuple[Tensor, ...]
    order: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def called(self) -> list[str]:
        """Names of the linear layers that the forward calls, in order; of skipped layers too."""
        run = {call.name for call in self.calls}
        names: list[str] = []
        for name in self.order:
            like = self.skipped.get(name)
            if like is not None:
                names += [moved(inner, like, name) for inner in names if is_in(inner, like)]
            elif name in run:
                names.append(name)
        return names

    def feeders(self, call: Call) -> list[Call]:
        """The calls whose leaves reach the input of `call`; empty if there are too many."""
        found = [s for s in self._search([call.input], MOST_FEEDERS) if isinstance(s, Call)]
        return found if len(found) <= MOST_FEEDERS else []

    def given_to(self, call: Call) -> list[Given]:
        """The parameters that reach the input of `call`."""
        return [source for source in self._search([call.input]) if isinstance(source, Given)]

    def feeders_outside(self, consumers: Iterable[Call]) -> set[Call]:
        """The calls whose leaves reach anything else than the inputs of `consumers`."""
        excepted = set(consumers)
        inputs = [call.input for call in self.calls if call not in excepted]
        found = self._search([*inputs, *self.outputs])
        return {source for source in found if isinstance(source, Call)}

    def _search(self, starts: Sequence[Tensor], limit: int | None = None) -> Iterator[Call | Given]:
        """Walk the autograd graph back to leaves, and stop after `limit` + 1 calls."""
        by_leaf = self._by_leaf
        seen: set[Any] = set()
        stack: list[Any] = [tensor.grad_fn for tensor in starts]
        found = 0
        while stack and (limit is None or found <= limit):
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            source = by_leaf.get(id(getattr(node, "variable", None)))
            if source is not None:
                found += isinstance(source, Call)
                yield source
            stack.extend(following for following, _ in node.next_functions)

    @cached_property
    def _by_leaf(self) -> dict[int, Call | Given]:
        return {id(source.leaf): source for source in (*self.calls, *self.given)}


def is_in(name: str, path: str) -> bool:
    """Whether a dotted name is that of a module or of something in it."""
    return f"{name}.".startswith(f"{path}.")


def moved(name: str, path: str, other: str) -> str:
    """The name of the same thing in another module."""
    return other + name.removeprefix(path)


def trace(model: nn.Module, inputs: Mapping[str, Any], *, whole: bool = False) -> Trace:
    """Run one forward of `model` with its linear layers cut open. The model is left as it was.

    To be called, and its result to be used, within `thawed`.

    Args:
        model: what to run.
        inputs: keyword arguments of the forward.
        whole: run every layer, also those that are like others.
    """
    if not whole:
        with suppress(Exception):
            return _trace(model, inputs, skipping)
    return _trace(model, inputs, lambda *_: nullcontext())


def _trace(
    model: nn.Module,
    inputs: Mapping[str, Any],
    skip: Callable[..., AbstractContextManager[None]],
) -> Trace:
    calls: list[Call | ExpertsCall | Skipped] = []

    def note(name: str, like: str) -> None:
        calls.append(Skipped(name, like))

    with evaluating(model), skip(model, note), _stubbed(model, calls), torch.enable_grad():
        outputs = model(**inputs)
    first = {call.name: call for call in reversed(calls)}
    given = tuple(Given(name, parameter) for name, parameter in model.named_parameters())
    ordered = tuple(reversed(first.values()))
    return Trace(
        calls=tuple(call for call in ordered if isinstance(call, Call)),
        experts=tuple(call for call in ordered if isinstance(call, ExpertsCall)),
        given=given,
        outputs=tuple(tensors_in(outputs)),
        order={call.name: number for number, call in enumerate(ordered)},
        skipped={call.name: call.like for call in ordered if isinstance(call, Skipped)},
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (t for v in value.values() for t in tensors_in(v))
    elif isinstance(value, (list, tuple)):
        yield from (t for v in value for t in tensors_in(v))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and each module's own mode again on leaving."""
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
    """Without the autocast that accelerate puts around a forward, which a Trainer leaves there."""
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
    """The same draws in every forward, for models that draw in eval mode too, as ViLT does."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([d for d in devices if d is not None]):
        torch.manual_seed(0)
        yield


@contextmanager
def thawed(model: nn.Module) -> Iterator[None]:
    """Let gradients reach frozen parameters too; they are frozen again on leaving."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _stubbed(model: nn.Module, calls: list[Any]) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    layers = {name: m for name, m in linear_layers(model).items() if _gives_a_tensor(m)}
    experts = expert_modules(model)
    stubbed = [*layers.values(), *experts.values()]
    before = {m: m.__dict__["forward"] for m in stubbed if "forward" in m.__dict__}
    try:
        for name, module in layers.items():
            sizes = in_features(module), out_features(module)
            module.forward = _stub(name, sizes, calls, generator)
        for name, module in experts.items():
            module.forward = _experts_stub(name, module, calls, generator)
        yield
    finally:
        for module in stubbed:
            del module.__dict__["forward"]
        for module, forward in before.items():
            module.forward = forward


def _gives_a_tensor(layer: nn.Module) -> bool:
    """Whether a layer gives what linear layers give: some routers derive from one, and do not."""
    if type(layer).forward is nn.Linear.forward:
        return True
    weight = next(layer.parameters())
    hidden = torch.zeros(1, in_features(layer), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        return isinstance(type(layer).forward(layer, hidden), Tensor)  # no hooks of the user


def _stub(
    name: str,
    sizes: tuple[int, int],
    calls: list[Any],
    generator: torch.Generator,
) -> Any:
    fan_in, width = sizes

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        if hidden.shape[-1] != fan_in:
            raise ValueError(f"{name} takes {fan_in} features, got {hidden.shape[-1]}")
        # Positive numbers keep rectified activations alive, so that no neuron looks dead.
        noise = torch.rand(*hidden.shape[:-1], width, generator=generator) + 0.5
        leaf = noise.to(hidden.device, hidden.dtype).requires_grad_()
        calls.append(Call(name, hidden, leaf))
        return leaf.clone()  # a model may write into it

    return forward


def _experts_stub(
    name: str, module: nn.Module, calls: list[Any], generator: torch.Generator
) -> Any:
    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        calls.append(ExpertsCall(name, module, hidden.shape[-1]))
        noise = torch.rand(hidden.shape, generator=generator)
        return hidden + noise.to(hidden.device, hidden.dtype)  # what feeds it stays visible

    return forward
