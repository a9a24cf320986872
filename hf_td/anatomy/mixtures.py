"""Reads mixtures of experts, and proves on the model that whole experts can be left out.

The block around the experts is run on noise, with a router of noise. What reaches the experts where
some are left out by their logits has to be what reaches them where the same are cut out of the
router. So a router that chooses by anything else than its logits is refused.
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
from hf_td.anatomy.trace import evaluating
from hf_td.modules.compact_shapes import EXPERTS
from hf_td.modules.layouts import stacks_of
from hf_td.modules.routing import (
    OWN_BUFFERS,
    chosen_experts,
    masked_class,
    spread_weights,
    stock_class,
)

# Enough for every expert to be chosen now and then.
_TOKENS = 64
_TOLERANCE = 1e-5


def read_mixtures(model: nn.Module, experts: Iterable[str]) -> list[Mixture]:
    """The mixture around each module of experts; the same place in another layer is proven once.

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
    """Where the parts of a mixture are.

    Attributes:
        path: dotted name of the block around the experts.
        block: that module.
        leaf: name of the module of experts within it.
        routers: names within it of the modules whose weight has a row for each expert.
    """

    path: str
    block: nn.Module
    leaf: str
    routers: tuple[str, ...]

    @classmethod
    def find(cls, model: nn.Module, name: str) -> _Place:
        """The place of the module of experts of this dotted name."""
        path, _, leaf = name.rpartition(".")
        block = model.get_submodule(path)
        stack = stacks_of(block.get_submodule(leaf))[0]
        shape = stack.weight.shape[0], stack.weight.shape[stack.layout.fan_in_dim]
        routers = [
            n
            for n, m in block.named_modules()
            if n and not f"{n}.".startswith(f"{leaf}.") and _weight_shape(m) == shape
        ]
        return cls(path, block, leaf, tuple(routers))

    @property
    def experts(self) -> nn.Module:
        """The module of experts."""
        return self.block.get_submodule(self.leaf)

    @property
    def router(self) -> Any:
        """The module that chooses."""
        return self.block.get_submodule(self.routers[0])

    @property
    def units(self) -> int:
        """The number of experts."""
        return stacks_of(self.experts)[0].weight.shape[0]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for mixtures that are built alike."""
        shapes = {n: tuple(p.shape) for n, p in self.block.named_parameters()}
        return pattern_of(join(self.path, self.leaf)), repr(shapes)

    def mixture(self, chosen: int, obstacle: str | None) -> Mixture:
        """The reading."""
        router = join(self.path, self.routers[0]) if self.routers else ""
        slices = tuple(self._slices()) if obstacle is None else ()
        experts = join(self.path, self.leaf)
        return Mixture(self.path, self.units, chosen, router, experts, slices, obstacle)

    def _slices(self) -> Iterator[Companion]:
        """The parameters of the router and of the experts that have an entry for each expert."""
        for leaf in (self.routers[0], self.leaf):
            for name, parameter in self.block.get_submodule(leaf).named_parameters():
                if parameter.shape[:1] == (self.units,):
                    each = torch.arange(self.units)[:, None]
                    yield Companion(join(self.path, f"{leaf}.{name}"), 0, each)


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = module._parameters.get("weight")
    return () if weight is None else tuple(weight.shape)


def _prove(place: _Place) -> int | str:
    """How many experts each token goes to, or why no expert can be left out."""
    if len(place.routers) != 1:
        return f"{len(place.routers)} of its layers have a row for each expert, and a router has to"
    buffers = {n: b for n, b in place.router.named_buffers() if n not in OWN_BUFFERS}
    counted = [name for name, buffer in buffers.items() if buffer.shape[:1] == (place.units,)]
    if counted:
        return f"its router has a buffer with an entry for each expert, {counted[0]}"
    try:
        return _Trial(place).outcome()
    except Exception as error:
        return f"its router does not run with fewer experts ({error})"


class _Trial:
    """Runs the block of a mixture on noise, with a router of noise, and sees what experts get.

    Attributes:
        place: where the parts are.
        tensors: of the block without the experts, in float32.
        rows: names of those of the router's that have an entry for each expert.
        hidden: what goes in.
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
        # The last of a random order: at most half, and never one that has to stay.
        self.order = torch.randperm(place.units, generator=draw).to(self.hidden.device)

    def outcome(self) -> int | str:
        """How many experts each token goes to, or what the router does that it must not."""
        units = self.place.units
        chosen = self._run(self.tensors)[1].shape[1]
        if chosen == units:
            return chosen  # none can be left out, so there is nothing to prove
        stay = self.order[: max(chosen, units // 2)].sort().values
        gone = torch.ones_like(self.order, dtype=torch.bool).index_fill(0, stay, False)
        if not self._weights(self.tensors)[:, gone].any():
            return "its router does not choose by the rows of its weight"
        masked = self._with_rows(lambda t: t.clone().index_fill_(0, gone.nonzero()[:, 0], 0))
        if any(gone[self._run(masked, training=mode)[1]].any() for mode in (False, True)):
            return "its router chooses experts whose logit is minus infinity"
        cut = self._with_rows(lambda t: t[stay])
        difference = self._weights(masked)[:, stay] - self._weights(cut)
        if difference.abs().max() > _TOLERANCE:
            return "its router gives other weights than a model without what is left out"
        return chosen

    def _with_rows(self, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {**self.tensors, **{name: change(self.tensors[name]) for name in self.rows}}

    def _weights(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """`(tokens, experts)`: the weight that each expert has, 0 where it is not chosen."""
        return spread_weights(*self._run(tensors), len(tensors[self.rows[0]]))

    @torch.no_grad()
    def _run(
        self, tensors: Mapping[str, Tensor], *, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The weights and the indices of the experts, as they reach these."""
        block, experts = self.place.block, self.place.experts
        seen: list[Any] = []

        def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(chosen_experts([*args, *kwargs.values()]))
            return hidden

        with (
            evaluating(block),
            _masking(self.place.router),
            _forward(experts, record),
            _forked(self.hidden.device),
        ):
            block.train(training)
            with _counting(self.place, len(tensors[self.rows[0]])):
                functional_call(block, dict(tensors), (self.hidden.clone(),))
        if not seen or seen[0] is None:
            raise ValueError("its experts are not given the indices and weights of those chosen")
        return seen[0]


@contextmanager
def _masking(router: Any) -> Iterator[None]:
    """Let a router leave out what has rows of zeros; what its class computes is what is read."""
    before = type(router)
    replaced = {k: v for k, v in router.__dict__.items() if k == "forward"}
    router.__dict__.pop("forward", None)
    router.__class__ = masked_class(stock_class(router))
    try:
        yield
    finally:
        router.__class__ = before
        router.__dict__.update(replaced)


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Run this instead of a module."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.forward = before


@contextmanager
def _counting(place: _Place, units: int) -> Iterator[None]:
    """Let the modules of a mixture count so many experts."""
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


@contextmanager
def _forked(device: torch.device) -> Iterator[None]:
    """Random numbers of its own: some routers draw while they train."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
