"""Reads mixtures of experts, and proves on the model that whole experts can be excluded.

The block around the experts is run on noise, with a router of noise: once with some experts
excluded by their logits, once with their rows cut out of the router. Both runs must send the
remaining experts the same tokens with the same weights. So a router that chooses by anything but
its logits is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_td.anatomy.blocks import Companion, Mixture, pattern_of
from hf_td.anatomy.towers import join
from hf_td.anatomy.trace import evaluating, seeded
from hf_td.modules.compact_shapes import EXPERTS
from hf_td.modules.layouts import stacks_of
from hf_td.modules.routing import chosen_experts, masked_class, spread_weights, stock_class

# Enough for every expert to be chosen by some tokens.
_TOKENS = 64
_TOLERANCE = 1e-5


def read_mixtures(model: nn.Module, experts: Iterable[str]) -> list[Mixture]:
    """Return the mixture around each module of experts; a place that recurs is proven only once.

    Args:
        model: any model.
        experts: dotted names of the modules of experts that a forward calls.
    """
    proven: dict[tuple[Any, ...], int | str] = {}
    mixtures = []
    for name in experts:
        place = _Place.find(model, name)
        if place.key not in proven:
            proven[place.key] = _prove(place)
        found = proven[place.key]
        chosen, obstacle = (found, None) if isinstance(found, int) else (0, found)
        mixtures.append(place.mixture(chosen, obstacle))
    return mixtures


@dataclass(frozen=True, eq=False)
class _Place:
    """The parts of a mixture.

    Attributes:
        path: dotted name of the block around the experts.
        block: the block.
        leaf: name of the module of experts within the block.
        routers: names within the block of all modules whose weight has a row for each expert.
    """

    path: str
    block: nn.Module
    leaf: str
    routers: tuple[str, ...]

    @classmethod
    def find(cls, model: nn.Module, name: str) -> _Place:
        """Return the place of a module of experts, given its dotted name."""
        path, _, leaf = name.rpartition(".")
        block = model.get_submodule(path)
        stack = stacks_of(block.get_submodule(leaf))[0]
        shape = stack.weight.shape[0], stack.weight.shape[stack.layout.fan_in_dim]
        routers = [
            n
            for n, m in block.named_modules()
            if n
            and not f"{n}.".startswith(f"{leaf}.")
            and getattr(m._parameters.get("weight"), "shape", None) == shape
        ]
        return cls(path, block, leaf, tuple(routers))

    @property
    def experts(self) -> nn.Module:
        """The module of experts."""
        return self.block.get_submodule(self.leaf)

    @property
    def router(self) -> Any:
        """The module that chooses the experts of a token."""
        return self.block.get_submodule(self.routers[0])

    @property
    def units(self) -> int:
        """The number of experts."""
        return stacks_of(self.experts)[0].weight.shape[0]

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that is equal for mixtures of equal shapes in different layers."""
        shapes = {n: tuple(p.shape) for n, p in self.block.named_parameters()}
        return pattern_of(join(self.path, self.leaf)), repr(shapes)

    def mixture(self, chosen: int, obstacle: str | None) -> Mixture:
        """Return the reading of the mixture."""
        router = join(self.path, self.routers[0]) if self.routers else ""
        slices = tuple(self._slices()) if obstacle is None else ()
        experts = join(self.path, self.leaf)
        return Mixture(self.path, self.units, chosen, router, experts, slices, obstacle)

    def _slices(self) -> Iterator[Companion]:
        """Yield the parameters of router and experts that have an entry for each expert."""
        for leaf in (self.routers[0], self.leaf):
            for name, parameter in self.block.get_submodule(leaf).named_parameters():
                if parameter.shape[:1] == (self.units,):
                    each = torch.arange(self.units)[:, None]
                    yield Companion(join(self.path, f"{leaf}.{name}"), 0, each)


def _prove(place: _Place) -> int | str:
    """Return the number of experts per token, or the reason why no expert can be excluded."""
    if len(place.routers) != 1:
        return f"{len(place.routers)} of its layers have a row for each expert, not just a router"
    # What is not saved, as the buffers that targeting adds, cannot be trained to bias the choice.
    saved = place.router.state_dict().keys()
    for name, buffer in place.router.named_buffers():
        if name in saved and buffer.shape[:1] == (place.units,):
            return f"its router has a buffer with an entry for each expert, {name}"
    try:
        return _Trial(place).outcome()
    except Exception as error:
        return f"its router does not run with fewer experts ({error})"


class _Trial:
    """A trial of a mixture's block on noise, with a router of noise.

    Attributes:
        place: the parts of the mixture.
        tensors: parameters and buffers of the block without its experts, in float32.
        rows: names of the router's tensors that have an entry for each expert.
        hidden: the input.
        order: a random order of the experts; the trial excludes the last of them.
    """

    def __init__(self, place: _Place) -> None:
        self.place = place
        draw = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw).to(place.router.weight.device)

        own = (*place.block.named_parameters(), *place.block.named_buffers())
        outside = {n: t for n, t in own if not n.startswith(f"{place.leaf}.")}
        self.tensors = {n: t.detach().float() for n, t in outside.items() if t.is_floating_point()}
        router = f"{place.routers[0]}."
        self.rows = [
            n for n, t in self.tensors.items() if n.startswith(router) and len(t) == place.units
        ]
        self.tensors |= {n: noise(*self.tensors[n].shape) for n in self.rows}
        self.hidden = noise(1, _TOKENS, place.router.weight.shape[1])
        self.order = torch.randperm(place.units, generator=draw).to(self.hidden.device)

    def outcome(self) -> int | str:
        """Return the number of experts per token, or the property of the router that forbids it."""
        units = self.place.units
        chosen = self._run(self.tensors)[1].shape[1]
        if chosen == units:
            return chosen  # none can be excluded, so there is nothing to prove
        kept = self.order[: max(chosen, units // 2)].sort().values
        excluded = torch.ones_like(self.order, dtype=torch.bool).index_fill(0, kept, False)
        if not self._weights(self.tensors)[:, excluded].any():
            return "its router does not choose by the rows of its weight"
        masked = self._with_rows(lambda t: t.clone().index_fill_(0, excluded.nonzero()[:, 0], 0))
        if any(excluded[self._run(masked, training=mode)[1]].any() for mode in (False, True)):
            return "its router chooses experts whose logit is minus infinity"
        cut = self._with_rows(lambda t: t[kept])
        difference = self._weights(masked)[:, kept] - self._weights(cut)
        if difference.abs().max() > _TOLERANCE:
            return "its router gives other weights than a model without the excluded experts"
        return chosen

    def _with_rows(self, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {**self.tensors, **{name: change(self.tensors[name]) for name in self.rows}}

    def _weights(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return each expert's weight, 0 if not chosen, as `(tokens, experts)`."""
        return spread_weights(*self._run(tensors), len(tensors[self.rows[0]]))

    @torch.no_grad()
    def _run(
        self, tensors: Mapping[str, Tensor], *, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run the block; return the weights and the indices that the experts are given."""
        block, experts = self.place.block, self.place.experts
        seen: list[Any] = []

        def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(chosen_experts([*args, *kwargs.values()]))
            return hidden

        with (
            evaluating(block),
            _masking(self.place.router),
            _forward(experts, record),
            _counting(self.place, len(tensors[self.rows[0]])),
            seeded(block),  # some routers draw in training mode
        ):
            block.train(training)
            functional_call(block, dict(tensors), (self.hidden.clone(),))
        if not seen or seen[0] is None:
            raise ValueError("its experts are not given the indices and weights of the chosen ones")
        return seen[0]


@contextmanager
def _masking(router: Any) -> Iterator[None]:
    """Let a router exclude experts with rows of zeros; restore its class and forward on exit."""
    before = type(router)
    with _forward(router, None):
        router.__class__ = masked_class(stock_class(router))
        try:
            yield
        finally:
            router.__class__ = before


@contextmanager
def _forward(module: Any, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Put `forward`, or that of the class, in place of a module's own; restore it on exit."""
    before = module.__dict__.pop("forward", None)
    if forward is not None:
        module.forward = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if before is not None:
            module.forward = before


@contextmanager
def _counting(place: _Place, units: int) -> Iterator[None]:
    """Set the number of experts that the modules of a mixture keep; restore it on exit."""
    modules = (place.block, place.router)
    counts = [
        (m, name)
        for m in modules
        for name in sorted(EXPERTS)
        if m.__dict__.get(name) == place.units
    ]
    try:
        for module, name in counts:
            setattr(module, name, units)
        yield
    finally:
        for module, name in counts:
            setattr(module, name, place.units)
