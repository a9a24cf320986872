"""One-shot magnitude pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_td.anatomy import read_anatomy
from hf_td.config import TargetedDropoutConfig, configure, trained_with
from hf_td.modules.compact_layout import record_layout
from hf_td.patching.layers import can_measure
from hf_td.patching.patch import find_patch
from hf_td.pruning.budgets import Budget, Of
from hf_td.pruning.first_order import movement_scores, taylor_scores
from hf_td.pruning.report import PruningReport, count_sparsity
from hf_td.ranking.activations import FILE, Activations, find_activations, measure_activations
from hf_td.ranking.learned import FILE as SCORES_FILE
from hf_td.ranking.learned import find_learned
from hf_td.ranking.sites import ExpertSite, Site, WeightSite, plan_sites

Batches = Iterable[Mapping[str, Any]] | None


def prune_model(
    model: nn.Module,
    sparsity: float,
    config: TargetedDropoutConfig | None = None,
    *,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    of: Of | None = None,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PruningReport:
    """Set the least important weights or units to zero, in place and in one shot.

    At the weight level the lowest magnitudes of each output unit go, at the unit level the heads
    and neurons of lowest norm of each layer (paper, section 4.1), the same fraction everywhere.
    With a global budget one ranking over the whole model decides.

    With `experts_level="unit"` whole experts go, as many as each token can spare. Zeros alone would
    not do: a router would still choose them. So their rows in the router become zeros as well, and
    the router gets a class that never chooses such experts, in eval mode too; the model computes
    what it does without them. `compact_model` and `export_model` take them out; before that
    `save_pretrained` refuses, since no stock checkpoint can say that experts are gone.

    Args:
        model: any model that can be patched; patched or not, trained with targeted dropout or not.
        sparsity: the fraction to remove, in [0, 1]; under a pattern N:M at most N/M, at which every
            group of M neighbours loses exactly N (below it, at most N).
        config: which layers, and at which level; None means as the model was trained (which its
            own config records), or the defaults, with importance by what a baseline has learned
            of the model, or by magnitude where there is no calibration either.
        budget: `uniform`, `global`, or a `Budget` with its details.
        of: what a global sparsity is a fraction of: `units`, `parameters` or `flops`.
        calibration: batches of training data, keyword arguments for `model`, on which importance
            by activation is measured (None for what was measured while the model was trained), or,
            with labels, importance by `taylor` or `movement`.
        example_inputs: as in `patch_model`.
        **overrides: settings that replace those of `config`, such as `level="unit"`.

    Returns:
        What is gone, by layer and in total, counted in the weights (of routers, none).

    Raises:
        ValueError: sparsity is out of range or more than a pattern takes, nothing is there to be
            pruned, single weights have adapters beside them that are not merged, or nothing tells
            what the importance that is asked for needs.
    """
    check_sparsity(sparsity)
    budget = as_budget(budget, of)
    sites = sites_to_prune(
        model, config, calibration=calibration, example_inputs=example_inputs, **overrides
    )
    check_reachable(sites, sparsity)
    anatomy = read_anatomy(model, example_inputs)  # before the config changes, which it hangs on
    remove_lowest(sites, sparsity, budget)
    if any(isinstance(site, ExpertSite) for site in sites):
        record_layout(model)
    return count_sparsity(model, anatomy.holders)


def check_sparsity(sparsity: float) -> None:
    """Raise unless `sparsity` is a fraction in [0, 1]."""
    if not isinstance(sparsity, Real):
        raise TypeError(f"sparsity is a number, the fraction to remove; got {sparsity!r}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is the fraction to remove, in [0, 1]; got {sparsity}")


def check_reachable(sites: Iterable[Site], sparsity: float) -> None:
    """Raise ValueError if a pattern lets less go than `sparsity`."""
    for site in sites:
        if sparsity > site.most:
            raise ValueError(
                f"the pattern takes {site.most:g} of the weights of {site.name} at most, but the "
                f"sparsity is {sparsity}; prune to {site.most:g}, or without a pattern"
            )


def sites_to_prune(
    model: nn.Module,
    config: TargetedDropoutConfig | None = None,
    *,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> tuple[Site, ...]:
    """What `prune_model` ranks, with the same arguments."""
    config = config or _trained_with(model)
    if config is None:  # no training has measured activations
        overrides = {"importance": _default_importance(model, calibration), **overrides}
    config = configure(config, overrides)
    anatomy = read_anatomy(model, example_inputs)
    sites = plan_sites(model, anatomy, config)
    _check_own_weights(sites)
    _check_merged(model, sites)
    if config.importance in _GIVEN:
        return _with_scores(sites, _GIVEN[config.importance](model, sites, config, calibration))
    if config.importance != "activation":
        return sites
    names = [site.name for site in sites if can_measure(site.layer)]
    return plan_sites(model, anatomy, config, _activations(model, names, calibration))


def _trained_with(model: nn.Module) -> TargetedDropoutConfig | None:
    """How a model is patched, or what its config records, which not every module has."""
    patch = find_patch(model)
    return trained_with(model) if patch is None else patch.config


def _check_own_weights(sites: tuple[Site, ...]) -> None:
    """Zeros written to a weight that is computed afresh at each reading would be lost."""
    computed = [site.name for site in sites if not isinstance(site.layer.weight, nn.Parameter)]
    if computed:
        raise ValueError(
            f"the weight of {computed[0]} is no parameter but computed, as under a baseline or any "
            "other parametrization; call finish_baseline, or remove the parametrization, first"
        )


def _check_merged(model: nn.Module, sites: tuple[Site, ...]) -> None:
    """Zeros in a weight that an adapter is added to would be lost when that is merged."""
    for site in sites:
        adapted = _adapter_around(model, site.name)
        if isinstance(site, WeightSite) and adapted is not None:
            raise ValueError(
                f"{adapted} has an adapter beside its weight, which would fill up what is pruned "
                "of it when it is merged; call merge_and_unload() first, and prune what that gives"
            )


def _adapter_around(model: nn.Module, name: str) -> str | None:
    """The module of an adapter, not merged, that a layer is part of."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        path = ".".join(parts[:length])
        module = model.get_submodule(path)
        if hasattr(module, "base_layer") and not getattr(module, "merged", False):
            return path
    return None


def _default_importance(model: nn.Module, calibration: Any) -> str:
    if find_learned(model):
        return "learned"
    return "activation" if calibration is not None else "magnitude"


def _with_scores(sites: tuple[Site, ...], scores: Mapping[str, Tensor]) -> tuple[Site, ...]:
    return tuple(replace(s, given=scores[s.name].to(s.layer.weight.device)) for s in sites)


def _learned(
    model: nn.Module, sites: tuple[Site, ...], config: TargetedDropoutConfig, calibration: Batches
) -> dict[str, Tensor]:
    learned = find_learned(model)
    for site in sites:
        shape = tuple(site.scores().shape)
        found = tuple(learned[site.name].shape) if site.name in learned else None
        if found != shape:
            raise ValueError(
                f"importance 'learned' needs scores of shape {shape} for {site.name}, found "
                f"{found or 'none'}: train with a method that learns scores at this level and keep "
                f"{SCORES_FILE} beside the weights, or prune by importance='magnitude'"
            )
    return learned


def _first_order(
    model: nn.Module, sites: tuple[Site, ...], config: TargetedDropoutConfig, calibration: Batches
) -> dict[str, Tensor]:
    if calibration is None:
        raise ValueError(
            f"importance {config.importance!r} looks at gradients: pass a few batches of training "
            "data, with labels, as calibration=..."
        )
    experts = [site.name for site in sites if isinstance(site, ExpertSite)]
    if experts:
        raise ValueError(
            f"importance {config.importance!r} cannot rank the experts of {experts[0]}: without "
            "one the router chooses another, which no gradient tells; use importance='magnitude' "
            "or 'activation'"
        )
    measure = {"taylor": taylor_scores, "movement": movement_scores}[config.importance]
    return measure(model, sites, calibration)


# Importance that is not read off the weights: from model, sites, settings and calibration data to
# scores by the name of the site. Another one is another row.
_GIVEN: dict[str, Callable[..., Mapping[str, Tensor]]] = {
    "learned": _learned,
    "taylor": _first_order,
    "movement": _first_order,
}


def _activations(
    model: nn.Module, names: list[str], calibration: Iterable[Mapping[str, Any]] | None
) -> Activations:
    known = find_activations(model)
    if calibration is not None:
        known = measure_activations(model, names, calibration)
    if known is not None and not known.names():
        return known  # patched, but not trained yet: ranked as the first update would
    missing = names if known is None else sorted(set(names) - known.names())
    if known is None or missing:
        raise ValueError(
            f"importance by activation needs the activations of {missing[0]}"
            f"{f' and {len(missing) - 1} more layers' if len(missing) > 1 else ''}: pass a few "
            f"batches of training data as calibration=..., keep {FILE} beside the weights, or "
            "prune by importance='magnitude'"
        )
    return known


def as_budget(budget: Literal["uniform", "global"] | Budget, of: Of | None = None) -> Budget:
    """A budget from its name, or a global one with another `of`."""
    budget = budget if isinstance(budget, Budget) else Budget(kind=budget)
    if of is None:
        return budget
    if budget.kind != "global":
        raise ValueError(f"of={of!r} is for a global budget; pass budget='global' with it")
    return replace(budget, of=of)


@torch.no_grad()
def remove_lowest(sites: tuple[Site, ...], sparsity: float, budget: Budget) -> None:
    """Set what the budget chooses to zero."""
    for site, chosen in zip(sites, budget.choose(sites, sparsity), strict=True):
        site.remove(chosen)


@contextmanager
def kept_weights(sites: tuple[Site, ...]) -> Iterator[Callable[[], None]]:
    """Restore, on leaving, every weight and bias that pruning can change, bit for bit.

    Gives a function that restores them before, to prune anew. Routers choose again as before.
    """
    tensors = _distinct(sites)
    copies = [tensor.clone() for tensor in tensors]

    def restore() -> None:
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
        for site in sites:
            if isinstance(site, ExpertSite):
                site.settle()

    try:
        yield restore
    finally:
        restore()


def _distinct(sites: tuple[Site, ...]) -> list[Tensor]:
    tensors = (tensor for site in sites for tensor in site.parameters())
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())
