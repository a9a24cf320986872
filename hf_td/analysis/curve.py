"""Measures the pruning curve: the metric at every sparsity, from one trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from hf_td.anatomy import Anatomy, evaluating
from hf_td.config import TargetedDropoutConfig, check_known
from hf_td.pruning import (
    BlockSparsity,
    Budget,
    as_budget,
    check_reachable,
    check_sparsity,
    count_sparsity,
    kept_weights,
    select_sites,
)
from hf_td.pruning.budgets import Currency
from hf_td.pruning.compensation import Compensation, as_compensation, check_compensation
from hf_td.pruning.prune import remove_wanted
from hf_td.ranking.activations import Activations

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class CurvePoint:
    """The metrics at one sparsity.

    Attributes:
        sparsity: the fraction asked for, of each layer or of the whole as the budget says.
        removed_prunable: the fraction of the prunable weights that is zero.
        removed_of_all: the number of these zeros as a fraction of all parameters.
        metrics: what `evaluate` returned.
        blocks: the removed units of each block; empty in older records.
    """

    sparsity: float
    removed_prunable: float
    removed_of_all: float
    metrics: dict[str, float]
    blocks: tuple[BlockSparsity, ...] = ()


def pruning_curve(
    model: nn.Module,
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], float | Metrics],
    config: TargetedDropoutConfig | None = None,
    *,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    of: Currency | None = None,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    activations: Activations | None = None,
    scores: Mapping[str, Tensor] | None = None,
    compensate: bool | Compensation = False,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> list[CurvePoint]:
    """Prune to each sparsity in turn, evaluate, and restore the weights exactly.

    The model is read and ranked once, for all sparsities.

    Args:
        model: as for `prune_model`; left as it was, also after an error.
        sparsities: fractions in [0, 1].
        evaluate: called once for each sparsity with the pruned model, in eval mode; returns a
            number, or a mapping from names to numbers.
        config: as for `prune_model`.
        budget: as for `prune_model`.
        of: as for `prune_model`.
        calibration: as for `prune_model`.
        activations: as for `prune_model`.
        scores: as for `prune_model`.
        compensate: as for `prune_model`.
        anatomy: as for `prune_model`.
        example_inputs: as for `prune_model`.
        **overrides: as for `prune_model`.

    Raises:
        TypeError: the sparsities are not several numbers, raised before the first evaluation; or
            `evaluate` returns no number.
        ValueError: as for `prune_model`; raised before the first evaluation.
    """
    check_known(overrides, pruning_curve)
    sparsities = _as_numbers(sparsities)
    for sparsity in sparsities:
        check_sparsity(sparsity)
    budget, kind = as_budget(budget, of), as_compensation(compensate)
    batches = None if calibration is None else list(calibration)
    anatomy, sites = select_sites(
        model,
        config,
        calibration=batches,
        compensates=kind is not None,
        activations=activations,
        scores=scores,
        anatomy=anatomy,
        example_inputs=example_inputs,
        **overrides,
    )
    for sparsity in sparsities:
        check_reachable(sites, sparsity)
    if kind is not None:
        check_compensation(sites, kind, batches)
    points = []
    with kept_weights(sites) as restore:
        for sparsity in sparsities:
            remove_wanted(model, anatomy, [(sites, sparsity)], budget, kind, batches)
            found = count_sparsity(model, anatomy.holders)
            with evaluating(model):
                value = evaluate(model)
            points.append(
                CurvePoint(
                    sparsity=sparsity,
                    removed_prunable=found.sparsity,
                    removed_of_all=found.share_of_parameters,
                    metrics=_as_metrics(value),
                    blocks=found.blocks,
                )
            )
            restore()
    return points


def _as_metrics(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return dict(value)
    try:
        return {"metric": float(value)}
    except (TypeError, ValueError):
        raise TypeError(
            f"evaluate returned {value!r}. It returns a number, or a mapping from names to numbers"
        ) from None


def _as_numbers(sparsities: Any) -> list[float]:
    try:
        listed = list(sparsities)
        if not any(isinstance(sparsity, str) for sparsity in listed):
            return [float(sparsity) for sparsity in listed]
    except TypeError:
        pass
    raise TypeError(f"sparsities are several numbers, as in [0, 0.5, 0.75]; got {sparsities!r}")
