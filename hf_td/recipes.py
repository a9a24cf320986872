"""The recipes: defaults of the rates, their schedules and the importance, by level.

A new recipe is a new row. All that offers recipes reads this registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_td.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row of the registry.

    Attributes:
        help: what it is for, in one line.
        source: where its values come from.
        weight: values of settings of `TargetedDropoutConfig` at the weight level.
        unit: values at the unit level.
        training: values of arguments of the Trainer that are no settings of
            `TargetedDropoutConfig`, at both levels, where they differ from the usual ones.
    """

    help: str
    source: str
    weight: Mapping[str, Any]
    unit: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)

    def at(self, level: str) -> Mapping[str, Any]:
        """Return the values at a level, `weight` or `unit`."""
        return {**_USUAL, **{"weight": self.weight, "unit": self.unit}[level]}

    def for_training(self) -> Mapping[str, Any]:
        """Return the values of arguments of the Trainer that are no settings, at both levels."""
        return {**_USUAL_TRAINING, **self.training}


# Values of a recipe that says nothing else.
_USUAL = {"rank_over": "row", "fixed_sparsity": None}
_USUAL_TRAINING = {"untargeted_lr_scale": 2.0}
_ALWAYS = {"drop_rate": 1.0, "drop_rate_schedule": Schedule(), "importance": "activation"}
_GROWING = Schedule(shape="linear", end=0.6, sampled=0.2, off=0.15)
_SAMPLED = Schedule(sampled=0.2)
_LANGUAGE = {"targeting": 0.5, "targeting_schedule": _GROWING, **_ALWAYS}
_PAPER = {
    "targeting": 0.75,
    "targeting_schedule": Schedule(),
    "drop_rate": 0.66,
    "drop_rate_schedule": Schedule(),
    "importance": "magnitude",
}
# 40,000 of about 100,000 updates.
_RAMP = {
    "targeting_schedule": Schedule(shape="piecewise", end=0.4),
    "drop_rate": 0.99,
    "drop_rate_schedule": Schedule(shape="linear", end=0.4),
    "importance": "magnitude",
}

_ANNEALED = {
    **_ALWAYS,
    "targeting": 0.76,
    "targeting_schedule": _SAMPLED,
    "drop_rate_schedule": Schedule(shape="linear", initial=0.3, end=0.6),
}

RECIPES: dict[str, Recipe] = {
    "fine_tuning": Recipe(
        help="hundreds of updates that learn a task",
        source="held-out training rows: weights of SST-2 and CoLA, units of SST-2 and MRPC",
        weight={
            "targeting": 0.95,
            "targeting_schedule": Schedule(shape="cubic", begin=0.1, end=0.6, off=0.15),
            **_ALWAYS,
        },
        unit=_ANNEALED,
    ),
    "annealed": Recipe(
        help="as by default of units, for weights too: the drop rate grows, no update is dense",
        source="held-out training rows of SST-2 and MRPC",
        weight={
            **_ALWAYS,
            "targeting": 0.95,
            "targeting_schedule": _SAMPLED,
            "drop_rate_schedule": Schedule(shape="linear", end=0.6),
        },
        unit=_ANNEALED,
    ),
    "one_sparsity": Recipe(
        help="one sparsity will be shipped, and the last third of the run trains exactly that one",
        source="oBERT, SparseBERT, neural-compressor; parts on held-out rows of SST-2",
        weight={
            **_ALWAYS,
            # All three: cubic or exponential up to the sparsity itself, and then a fixed mask.
            "targeting": 0.9,
            "targeting_schedule": Schedule(shape="cubic", begin=0.1, end=0.6),
            "fixed_sparsity": 0.9,
            # oBERT and neural-compressor, which leaves 2 % of each matrix.
            "rank_over": "model",
        },
        unit={
            **_ALWAYS,
            "targeting": 0.75,
            "targeting_schedule": Schedule(shape="linear", end=0.6),
            "fixed_sparsity": 0.75,
        },
        training={"fixed_lr_scale": 1.0},  # oBERT: cycles of one learning rate
    ),
    "language_model": Recipe(
        help="few updates of a model that keeps its task",
        source="the validation split of WikiText-2",
        weight=_LANGUAGE,
        unit=_LANGUAGE,
        training={"untargeted_lr_scale": 1.0},  # no head is new
    ),
    "paper": Recipe(
        help="both rates constant, as in most of the paper's tables",
        source="Gomez et al., arXiv 1905.13678",
        weight=_PAPER,
        unit=_PAPER,
    ),
    "paper_ramp": Recipe(
        help="both rates grow: the paper's ramping targeted dropout, for the highest sparsities",
        source="Gomez et al., arXiv 1905.13678, and the authors' code",
        weight={"targeting": 0.99, **_RAMP},
        unit={"targeting": 0.9, **_RAMP},
    ),
}


def recipe_value(name: str, setting: str) -> tuple[Any, Any] | None:
    """Return a recipe's value of a flat argument, of weights and of units; None if it has none.

    Args:
        name: the recipe.
        setting: a setting of `TargetedDropoutConfig`, a field of a schedule, such as
            `targeting_end`, or an argument of the Trainer. `targeting_schedule` is the shape.
    """
    rate, _, field = setting.rpartition("_")
    row = RECIPES[name]
    if f"{rate}_schedule" in row.weight:
        kind = "shape" if field == "schedule" else field
        schedules = row.weight[f"{rate}_schedule"], row.unit[f"{rate}_schedule"]
        if hasattr(schedules[0], kind):
            return getattr(schedules[0], kind), getattr(schedules[1], kind)
    if setting in row.weight:
        return row.weight[setting], row.unit[setting]
    if setting in row.for_training():
        return row.for_training()[setting], row.for_training()[setting]
    return None


def recipe_choices() -> list[str]:
    """Return the names of the recipes."""
    return list(RECIPES)


def recipes_help() -> str:
    """Return all recipes and their help, in one line."""
    rows = "; ".join(f"{name}: {row.help}" for name, row in RECIPES.items())
    return f"defaults of both rates, their schedules and the importance: {rows}"
