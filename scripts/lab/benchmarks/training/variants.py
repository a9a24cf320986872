"""Ways to drop whose training steps are timed: targeted dropout, slow ports of it, its rivals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from hf_td import TargetedDropoutConfig, anneal, patch_model
from hf_td.baselines import Baseline, attach_baseline, find_baseline
from hf_td.tasks.experiment.methods import METHODS
from lab.benchmarks.training.ports import TARGETING, make_naive, parametrized, rank_parametrized

# Progress of the run at every timed step: the targeting is final.
_PROGRESS = 0.8
_EXAMPLES = 6000  # of the training set, over which some penalties are spread


class Applied(NamedTuple):
    """A variant that has been applied to a model.

    Attributes:
        advance: prepares an update, given its number.
        penalty: returns a term to add to the loss, or None.
    """

    advance: Callable[[int], None] = lambda update: None
    penalty: Callable[[], Tensor | None] = lambda: None


# Applies a variant to a model, in place.
Variant = Callable[[nn.Module], Applied]


def _patched(**settings: Any) -> Variant:
    def apply(model: nn.Module) -> Applied:
        patch_model(model, **settings)
        return Applied(partial(_advance, model))

    return apply


def _advance(model: nn.Module, update: int) -> None:
    anneal(model, _PROGRESS, update)


def _baseline(baseline: Baseline, level: Any) -> Variant:
    def apply(model: nn.Module) -> Applied:
        attach_baseline(model, baseline, TargetedDropoutConfig(level=level), examples=_EXAMPLES)
        attached = find_baseline(model)
        assert attached is not None
        return Applied(lambda update: attached.advance(_PROGRESS, update), attached.penalty)

    return apply


def _naive(model: nn.Module) -> Applied:
    make_naive(model)
    return Applied()


def _parametrized(model: nn.Module) -> Applied:
    layers = parametrized(model)
    return Applied(lambda update: rank_parametrized(layers))


# Without dense or sampled updates, so that every step drops all that it can.
_CONSTANT = {"targeting_schedule": "constant", "drop_rate_schedule": "constant"}
DROPPING: dict[str, Variant] = {
    "weight": _patched(level="weight", targeting=TARGETING, drop_rate=1.0, **_CONSTANT),
    "weight, drop rate 0.5": _patched(
        level="weight", targeting=TARGETING, drop_rate=0.5, **_CONSTANT
    ),
    "unit": _patched(level="unit", drop_rate=1.0, **_CONSTANT),
}
# As the recipe for one sparsity ranks.
POOLED: dict[str, Variant] = {
    "weight, ranked over the model": _patched(
        level="weight", targeting=TARGETING, drop_rate=1.0, rank_over="model", **_CONSTANT
    ),
}
WHOLE_RECIPES: dict[str, Variant] = {
    "weight, whole recipe": _patched(level="weight"),
    "unit, whole recipe": _patched(level="unit"),
}
PORTS: dict[str, Variant] = {"naive port": _naive, "parametrize": _parametrized}
# The methods that targeted dropout is compared with.
RIVALS: dict[str, Variant] = {
    f"{method.label}, {level}": _baseline(baseline, level)
    for method in METHODS.values()
    for level in ("weight", "unit")
    if (baseline := method.make_baseline(level, {})) is not None
}
DENSE = "dense"
VARIANTS: dict[str, Variant] = {
    DENSE: lambda model: Applied(),
    **DROPPING,
    **POOLED,
    **WHOLE_RECIPES,
    **PORTS,
    **RIVALS,
}
