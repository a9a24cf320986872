"""What a baseline is: a method with its settings, and what it does to one site of a model.

A site is what targeted dropout ranks together (`hf_td.ranking.sites`): the weights of a layer, or
the heads or neurons of a block. So every method works on the same weights and at the same level.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hf_td.anatomy import Stack
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.importance import fan_in_dim, unit_dim
from hf_td.ranking.sites import Site, UnitSite, by_feature


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """A method and its settings; each subclass is a method, each field a setting."""

    # Defaults of the settings at the unit level, where they are others.
    UNIT: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:  # noqa: B027 - not abstract: some methods refuse nothing
        """Nothing to refuse here; subclasses do, and call this."""

    @abstractmethod
    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Treatment:
        """What the method does to a site.

        Args:
            sites: one, or several whose units are tied and share one decision.
            config: of which level, rates and seed count here.
        """

    @classmethod
    def make(cls, level: str, settings: Mapping[str, Any]) -> Self:
        """The method with the defaults of a level and some settings.

        Raises:
            ValueError: a setting is unknown, or of another type than its default.
        """
        known = {f.name: f.default for f in fields(cls)}
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"unknown settings {unknown}; known are {sorted(known)}")
        wrong = {n: v for n, v in settings.items() if not _is_number(v, known[n])}
        if wrong:
            raise ValueError(f"settings are finite numbers; got {wrong}")
        return cls(**{**(cls.UNIT if level == "unit" else {}), **settings})

    def _check_fractions(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is a fraction in [0, 1), got {value}")


def _is_number(value: Any, default: Any) -> bool:
    if value is None:
        return default is None
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class Learning(Baseline):
    """A method with parameters of its own.

    Attributes:
        learning_rate: of these parameters; they get no weight decay.
    """

    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Penalised(Baseline):
    """A method that adds a penalty to the loss.

    Attributes:
        penalty: what multiplies its cost.
        warmup: progress until which the penalty grows linearly to that, in [0, 1).
    """

    penalty: float
    warmup: float = 0.0

    # What the sum of the costs is divided by: nothing, or the number of training examples or sites.
    PER: ClassVar[Literal["", "example", "site"]] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("warmup")

    def penalty_at(self, progress: float) -> float:
        """What multiplies the cost at a progress in [0, 1]."""
        return self.penalty * (min(1.0, progress / self.warmup) if self.warmup else 1.0)


class Treatment(nn.Module):
    """What a method does to one site, or to sites whose units are tied.

    Its parameters are float32 and of the shape that the site ranks.

    Attributes:
        sites: the site, and those that are tied to it.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.sites = tuple(sites)

    @property
    def site(self) -> Site:
        """The first of the sites, which all others are like."""
        return self.sites[0]

    def ranked_like(self, value: float) -> Tensor:
        """A float32 tensor, filled with a value, of the shape that the site ranks."""
        return torch.full_like(self.site.scores(), value, dtype=torch.float32)

    def attach(self) -> None:
        """Change what the layers of the sites compute."""

    def detach(self) -> None:
        """Undo `attach`, as far as it came."""

    def advance(self, progress: float) -> None:
        """Prepare the update that comes; random numbers are keyed by seed, update and site."""

    def cost(self) -> Tensor | None:
        """What the penalty of the method multiplies, a number; None without a penalty."""
        return None

    def scores(self) -> Tensor | None:
        """What pruning is to rank, the lowest go first; None where the method has no opinion."""
        return None

    def finish(self) -> None:
        """Write what the layers compute in eval mode into their weights, and `detach`."""


class Gate(Treatment, ABC):
    """A treatment that multiplies weights, or units at their consumer's input, by a factor."""

    @abstractmethod
    def factor(self) -> Tensor:
        """Of the shape that the site ranks; in eval mode it depends on no random number."""

    def attach(self) -> None:
        """Put the product in front of the weights."""
        for site in self.sites:
            module, name = place_of(site)
            product = _Product(self, spreader(site), list(module._parameters))
            parametrize.register_parametrization(module, name, product)

    def detach(self) -> None:
        """Take the product away again."""
        for site in self.sites:
            module, name = place_of(site)
            if parametrize.is_parametrized(module, name):
                _remove_product(module, name)

    @torch.no_grad()
    def finish(self) -> None:
        """Give the weights back as they were multiplied; what has the factor 0 is pruned."""
        factor = self.eval().factor()
        self.detach()
        for site in self.sites:
            weight = site.layer.weight
            weight.copy_(weight * spreader(site)(factor))
            site.remove(factor == 0)


class _Product(nn.Module):
    """The weight of a layer times what a gate says."""

    gate: Gate

    def __init__(self, gate: Gate, spread: nn.Module, order: list[str]) -> None:
        super().__init__()
        # No submodule: the gate has its place in the model already.
        self.__dict__["gate"] = gate
        self.spread = spread
        self.order = order

    def forward(self, weight: Tensor) -> Tensor:
        """Of the shape and the type of the weight."""
        return (weight * self.spread(self.gate.factor())).to(weight.dtype)


def _remove_product(module: Any, name: str) -> None:
    """Put the weight back where it was, also in the order of the parameters."""
    order = module.parametrizations[name][0].order
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parameters = module._parameters
    parameters |= {n: parameters.pop(n) for n in order if n in parameters}


class ByChannel(nn.Module):
    """From a factor of units to one of the channels that their consumer reads.

    What belongs to no unit has the factor 1.
    """

    owner: Tensor

    def __init__(self, site: UnitSite) -> None:
        super().__init__()
        weight, projection = site.layer.weight, site.block.consumer
        numbers = torch.arange(1, site.block.units + 1, device=weight.device)
        owner = by_feature(numbers, projection, weight.shape[fan_in_dim(site.layer)])
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, factor: Tensor) -> Tensor:
        """`(..., units)` to `(..., channels)`."""
        return torch.cat([torch.ones_like(factor[..., :1]), factor], dim=-1)[..., self.owner]


class _ByColumn(ByChannel):
    """The same, broadcastable to the consumer's weight."""

    def __init__(self, site: UnitSite) -> None:
        super().__init__(site)
        self.dim = unit_dim(site.layer) - site.layer.weight.dim()

    def forward(self, factor: Tensor) -> Tensor:
        """`(..., units)` to a shape that broadcasts to the weight."""
        return super().forward(factor).unsqueeze(self.dim)


def place_of(site: Site) -> tuple[nn.Module, str]:
    """The module that has the weight of a site, and the weight's name in it."""
    layer = site.layer
    return (layer.module, layer.name) if isinstance(layer, Stack) else (layer, "weight")


def spreader(site: Site) -> nn.Module:
    """From a factor of what a site ranks to one that broadcasts to its weight.

    Made while the weight is still in its place, since it needs its shape.
    """
    return _ByColumn(site) if isinstance(site, UnitSite) else nn.Identity()
