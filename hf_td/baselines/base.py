"""Defines the interface of a baseline: a method with its settings, and its treatment of a site.

A site is what targeted dropout ranks together (`hf_td.ranking.sites`): the weights of a layer, or
the heads or neurons of a block. Every method thus works on the same weights and at the same level.
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
from hf_td.ranking.sites import Site, by_feature


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """A method and its settings; each subclass is a method, each field a setting."""

    # The name of the method in tables and plots.
    LABEL: ClassVar[str]

    # Defaults of the settings that differ at the unit level.
    UNIT: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:  # noqa: B027 - not abstract: some methods refuse nothing
        """Do nothing. Subclasses validate their settings, and call this."""

    @abstractmethod
    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Treatment:
        """Create the treatment of a site.

        Args:
            sites: one site, or several whose units are tied and share one decision.
            config: level, rates and seed are used.
        """

    @classmethod
    def make(cls, level: str, settings: Mapping[str, Any]) -> Self:
        """Create the method with the defaults of a level and some settings.

        Raises:
            ValueError: a setting is unknown, or not a finite number.
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
        learning_rate: the learning rate of these parameters; they get no weight decay.
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
        penalty: the factor of the cost.
        warmup: progress until which the factor grows linearly from 0, in [0, 1).
    """

    penalty: float
    warmup: float = 0.0

    # The divisor of the summed costs: none, or the number of training examples or of sites.
    PER: ClassVar[Literal["", "example", "site"]] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("warmup")

    def penalty_at(self, progress: float) -> float:
        """Return the factor of the cost at a progress in [0, 1]."""
        return self.penalty * (min(1.0, progress / self.warmup) if self.warmup else 1.0)


class Treatment(nn.Module):
    """The treatment of one site, or of sites whose units are tied, by a method.

    Its parameters are float32 and of the shape that the site ranks.

    Attributes:
        sites: the site, and the sites tied to it.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.sites = tuple(sites)

    @property
    def site(self) -> Site:
        """The first of the sites; the others have the same units."""
        return self.sites[0]

    def ranked_like(self, value: float) -> Tensor:
        """Return a float32 tensor, filled with a value, of the shape that the site ranks."""
        return torch.full_like(self.site.scores(), value, dtype=torch.float32)

    def attach(self) -> None:
        """Change what the layers of the sites compute."""

    def detach(self) -> None:
        """Undo `attach`, even if it failed half-way."""

    def advance(self, progress: float) -> None:
        """Prepare the next update; random numbers are keyed by seed, update and site."""

    def cost(self) -> Tensor | None:
        """Return the cost that the penalty multiplies, a scalar; None without a penalty."""
        return None

    def scores(self) -> Tensor | None:
        """Return scores for pruning, lowest removed first; None if the method learns none."""
        return None

    def finish(self) -> None:
        """Write the weights that eval mode computes with into the layers, and `detach`."""


class Gate(Treatment, ABC):
    """A treatment that multiplies weights, or units at their consumer's input, by a factor."""

    @abstractmethod
    def factor(self) -> Tensor:
        """Return the factor, of the shape that the site ranks; not random in eval mode."""

    def attach(self) -> None:
        """Parametrize the weights by their product with the factor."""
        for site in self.sites:
            module, name = place_of(site)
            product = _Product(self, to_weight(site), list(module._parameters))
            parametrize.register_parametrization(module, name, product)

    def detach(self) -> None:
        """Remove the parametrization."""
        for site in self.sites:
            module, name = place_of(site)
            if parametrize.is_parametrized(module, name):
                _remove_product(module, name)

    @torch.no_grad()
    def finish(self) -> None:
        """Write the products into the weights; entries with the factor 0 are pruned."""
        factor = self.eval().factor()
        self.detach()
        for site in self.sites:
            weight = site.layer.weight
            weight.copy_(weight * to_weight(site)(factor))
            site.remove(factor == 0)


class _Product(nn.Module):
    """The product of the weight of a layer and the factor of a gate.

    Attributes:
        gate: computes the factor.
        to_weight: broadcasts the factor to the weight.
        order: the names of the layer's parameters, in their original order.
    """

    gate: Gate

    def __init__(self, gate: Gate, to_weight: nn.Module, order: list[str]) -> None:
        super().__init__()
        # Not a submodule: the gate is already one elsewhere in the model.
        self.__dict__["gate"] = gate
        self.to_weight = to_weight
        self.order = order

    def forward(self, weight: Tensor) -> Tensor:
        """Return the product, of the shape and the type of the weight."""
        return (weight * self.to_weight(self.gate.factor())).to(weight.dtype)


def _remove_product(module: Any, name: str) -> None:
    """Remove the product and restore the order of the parameters."""
    order = module.parametrizations[name][0].order
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parameters = module._parameters
    parameters |= {n: parameters.pop(n) for n in order if n in parameters}


class ByChannel(nn.Module):
    """An expansion of a factor of units to the channels that their consumer reads.

    Channels that belong to no unit get the factor 1.

    Attributes:
        owner: for each channel the number of its unit, counted from 1; 0 for no unit.
    """

    owner: Tensor

    def __init__(self, site: Any) -> None:
        super().__init__()
        weight, projection = site.layer.weight, site.block.consumer
        numbers = torch.arange(1, site.block.units + 1, device=weight.device)
        owner = by_feature(numbers, projection, weight.shape[fan_in_dim(site.layer)])
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, factor: Tensor) -> Tensor:
        """Return `(..., channels)`, given `(..., units)`."""
        return torch.cat([torch.ones_like(factor[..., :1]), factor], dim=-1)[..., self.owner]


class _ByColumn(ByChannel):
    """An expansion of a factor of units to a shape that broadcasts to the consumer's weight."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.dim = unit_dim(site.layer) - site.layer.weight.dim()

    def forward(self, factor: Tensor) -> Tensor:
        """Return the factor of each column of the weight, given `(..., units)`."""
        return super().forward(factor).unsqueeze(self.dim)


def place_of(site: Site) -> tuple[nn.Module, str]:
    """Return the module that owns the weight of a site, and the name of the weight in it."""
    layer = site.layer
    return (layer.module, layer.name) if isinstance(layer, Stack) else (layer, "weight")


def to_weight(site: Site) -> nn.Module:
    """Return a module that broadcasts a factor of what a site ranks to the weight.

    Call it while the weight is a plain parameter: it reads the shape.
    """
    return nn.Identity() if site.kind == "weight" else _ByColumn(site)
