"""Prunes a model in one shot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy
from hf_td.config import TargetedDropoutConfig, check_known
from hf_td.modules.compact_layout import record_layout
from hf_td.modules.unsharing import unshare_config
from hf_td.pruning.budgets import Budget, Currency
from hf_td.pruning.compensation import (
    Batches,
    Compensation,
    as_compensation,
    check_compensation,
    remove_and_compensate,
)
from hf_td.pruning.report import PruningReport, count_sparsity
from hf_td.pruning.selection import select_sites
from hf_td.pruning.times import Times
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites import Site
from hf_td.ranking.source import forget_source

# The part of whole layers, in a mapping of sparsities.
LAYERS = "layers"


def prune_model(
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    config: TargetedDropoutConfig | None = None,
    *,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    of: Currency | None = None,
    times: Times | None = None,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    activations: Activations | None = None,
    scores: Mapping[str, Tensor] | None = None,
    compensate: bool | Compensation = False,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PruningReport:
    """Set the least important weights or units to zero, in place and in one shot.

    At the weight level the lowest magnitudes of each output unit are removed, at the unit level the
    heads and neurons of lowest norm of each layer (paper, section 4.1), the same fraction
    everywhere. With a global budget one ranking over the whole model decides.

    With `experts_level="unit"` whole experts are removed, as many as each token can spare. Zeros
    alone would not suffice, since a router would still choose such experts. So their rows in the
    router become zeros too, and the router gets a class that never chooses them, in eval mode too.
    `compact_model` and `export_model` take them out. Until then `save_pretrained` refuses: no stock
    checkpoint can say which experts are removed.

    With `layers_level="unit"` whole layers are removed too: in each stack those of lowest
    importance, down to one. A removed layer is passed by: its output is its input, also in a model
    that was saved and loaded. `compact_model` and `export_model` take it out.

    The pruned model no longer names the folder that it was loaded from (`name_or_path`), which has
    the model before pruning. Save it, and load it from there, where a program needs a name.

    Args:
        model: any model that can be patched; patched or not, trained with targeted dropout or not.
        sparsity: the fraction to remove, in [0, 1]; under a pattern N:M at most N/M, at which every
            group of M neighbours loses exactly N (below it, at most N). A mapping gives each part
            its own, such as `{"attention": 0.25, "feed_forward": 0.75, "layers": 2}`; a part that
            is not in it stays whole. There an integer is a number of units: heads or neurons of
            each block, or layers of each stack.
        config: which layers, and at which level. None means the settings that the model was trained
            with (its own config records them), or else the defaults. Their importance is by the
            scores that a baseline has learned, by activation if there is a calibration, or by
            magnitude.
        budget: `uniform`, `global`, or a `Budget` with its details.
        of: the currency of a global sparsity: `units`, `parameters`, `flops` or `latency`.
        times: what `measure_times` returned, or `Times.load`, for `latency`.
        calibration: batches of training data, keyword arguments for `model`. Importance by
            activation is measured on them; with labels, importance by `taylor` or `movement` is.
        activations: measured activations, for importance by activation. Without these and without a
            calibration, those measured in training are used.
        scores: by the name of the site, of the shape that it ranks; the lowest are removed first.
        compensate: True or `least_squares` changes the weights that read the remaining heads and
            neurons, and their bias, so that they make up for those that are removed, as well as the
            inputs in `calibration` allow. `mean` changes the bias alone, and takes one forward of
            the batches in all. It may be used together with any importance.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.
        **overrides: settings that replace those of `config`, such as `level="unit"`.

    Returns:
        What is removed, by layer and in total, counted in the weights (of routers, none).

    Raises:
        ValueError: the sparsity is out of range or more than a pattern takes; a weight is not
            finite; there is nothing to prune; single weights have adapters beside them that are not
            merged; what the importance needs is missing, or is given twice, or a calibration is
            given that nothing reads; or the anatomy is of another model.
    """
    check_known(overrides, prune_model)
    check_sparsity(sparsity)
    if isinstance(sparsity, Mapping) and LAYERS in sparsity:
        overrides = {"layers_level": "unit", **overrides}
    budget, kind = as_budget(budget, of, times), as_compensation(compensate)
    batches = None if kind is None or calibration is None else list(calibration)
    anatomy, sites = select_sites(
        model,
        config,
        calibration=calibration if batches is None else batches,
        compensates=kind is not None,
        activations=activations,
        scores=scores,
        anatomy=anatomy,
        example_inputs=example_inputs,
        **overrides,
    )
    if isinstance(sparsity, Mapping):
        wanted = _by_part(sites, anatomy, sparsity)
    else:
        wanted = [(sites, sparsity)]
    return prune_sites(model, anatomy, wanted, budget, kind, batches)


def prune_sites(
    model: nn.Module,
    anatomy: Anatomy,
    wanted: Sequence[tuple[tuple[Site, ...], float]],
    budget: Budget,
    compensation: Compensation | None = None,
    batches: Batches | None = None,
) -> PruningReport:
    """Prune sites that are selected already, each group to its sparsity, and count what is removed.

    Raises:
        ValueError: a pattern allows less than a sparsity, or the removal cannot be compensated for.
    """
    remove_wanted(model, anatomy, wanted, budget, compensation, batches)
    if any(site.kind in ("expert", "layer") for some, _ in wanted for site in some):
        unshare_config(model)
        record_layout(model)
    if any(fraction > 0 for _, fraction in wanted):
        forget_source(model)
    return count_sparsity(model, anatomy.holders)


def remove_wanted(
    model: nn.Module,
    anatomy: Anatomy,
    wanted: Sequence[tuple[tuple[Site, ...], float]],
    budget: Budget,
    compensation: Compensation | None = None,
    batches: Batches | None = None,
) -> None:
    """Set what the budget chooses of each group to zero, and compensate for it.

    Raises:
        ValueError: as for `prune_sites`; nothing is removed then.
    """
    for some, fraction in wanted:
        check_reachable(some, fraction)
        if compensation is not None:
            check_compensation(some, compensation, batches)
    if compensation is None or batches is None:
        for some, fraction in wanted:
            remove_lowest(some, fraction, budget)
    else:
        chosen = dict(_chosen_in_order(anatomy, wanted, budget))
        remove_and_compensate(model, [*chosen], [*chosen.values()], compensation, batches)


def _chosen_in_order(
    anatomy: Anatomy, wanted: Sequence[tuple[tuple[Site, ...], float]], budget: Budget
) -> list[tuple[Site, Tensor]]:
    """Return what the budget chooses of each site, in the order in which the model runs them."""
    places = {block.consumer.module: place for place, block in enumerate(anatomy.blocks)}
    chosen = [
        pair
        for some, fraction in wanted
        for pair in zip(some, budget.choose(some, fraction), strict=True)
    ]
    return sorted(chosen, key=lambda pair: places[pair[0].name])


def _by_part(
    sites: Sequence[Site], anatomy: Anatomy, sparsities: Mapping[str, float]
) -> list[tuple[tuple[Site, ...], float]]:
    """Return the sites of each part that has a sparsity, with it.

    Raises:
        ValueError: the model has no such part, or it is not ranked.
    """
    parts: dict[str, list[Site]] = {}
    for site in sites:
        parts.setdefault(anatomy.part_of(site.name), []).append(site)
    unknown = sparsities.keys() - parts.keys()
    if unknown:
        raise ValueError(
            f"sparsity names {', '.join(sorted(unknown))}, but what is ranked here is "
            f"{', '.join(parts)}. Name these parts, or set the level of the other part"
        )
    wanted: list[tuple[tuple[Site, ...], float]] = []
    for part, amount in sparsities.items():
        if _is_count(amount):
            wanted += [((site,), _fraction_of(site, int(amount))) for site in parts[part]]
        else:
            wanted.append((tuple(parts[part]), amount))
    return wanted


def _is_count(amount: float) -> bool:
    return isinstance(amount, int) and not isinstance(amount, bool)


def _fraction_of(site: Site, count: int) -> float:
    """Return the fraction of a site that a number of units is."""
    if site.kind == "weight":
        raise ValueError(
            f"{count} is a number of units, and {site.name} ranks single weights. Give a fraction, "
            f"{float(count)} or less, or level='unit'"
        )
    units = site.ranked_shape[-1]
    free = site.eligible(torch.zeros(site.ranked_shape)).isfinite().sum(-1)
    if count > int(free.min()):
        raise ValueError(
            f"{site.name} has {units} units, and {units - int(free.min())} have to stay, so "
            f"{count} of them cannot be removed"
        )
    return count / units


def check_sparsity(sparsity: float | Mapping[str, float]) -> None:
    """Raise unless this is a fraction in [0, 1], or for each part one or a number of units."""
    if not isinstance(sparsity, Mapping):
        _check_fraction(sparsity)
        return
    for part, amount in sparsity.items():
        if not _is_count(amount):
            _check_fraction(amount)
        elif amount < 0:
            raise ValueError(f"{part} is to lose a number of units, at least 0; got {amount}")


def _check_fraction(sparsity: float) -> None:
    if not isinstance(sparsity, Real) or isinstance(sparsity, bool):
        raise TypeError(f"sparsity is a number, the fraction to remove; got {sparsity!r}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is the fraction to remove, in [0, 1]; got {sparsity}")


def check_reachable(sites: Iterable[Site], sparsity: float) -> None:
    """Raise ValueError if a pattern allows less than `sparsity` to be removed."""
    for site in sites:
        if sparsity > site.most:
            raise ValueError(
                f"the pattern takes {site.most:g} of the weights of {site.name} at most, but the "
                f"sparsity is {sparsity}. Prune to {site.most:g}, or without a pattern"
            )


def as_budget(
    budget: Literal["uniform", "global"] | Budget,
    of: Currency | None = None,
    times: Times | None = None,
) -> Budget:
    """Return a budget by its name, or a global one in another currency."""
    budget = budget if isinstance(budget, Budget) else Budget(kind=budget)
    if of is None and times is None:
        return budget
    of = of or budget.of
    if budget.kind != "global":
        raise ValueError(f"of={of!r} is for a global budget. Pass budget='global' with it")
    return replace(budget, of=of, times=times)


@torch.no_grad()
def remove_lowest(sites: tuple[Site, ...], sparsity: float, budget: Budget) -> None:
    """Set what the budget chooses to zero."""
    for site, chosen in zip(sites, budget.choose(sites, sparsity), strict=True):
        site.remove(chosen)


@contextmanager
def pruned(
    model: nn.Module, sparsity: float, config: TargetedDropoutConfig | None = None, **options: Any
) -> Iterator[None]:
    """Prune a model as `prune_model` does, and restore its weights on exit, bit for bit.

    Args:
        model: as for `prune_model`.
        sparsity: the fraction to remove of each layer, in [0, 1].
        config: as for `prune_model`.
        **options: as for `prune_model`, all but the budget.

    Raises:
        ValueError: as `prune_model`.
    """
    check_sparsity(sparsity)
    _, sites = select_sites(model, config, **options)
    check_reachable(sites, sparsity)
    with kept_weights(sites):
        remove_lowest(sites, sparsity, as_budget("uniform", None))
        yield


@contextmanager
def kept_weights(sites: tuple[Site, ...]) -> Iterator[Callable[[], None]]:
    """Restore on exit, bit for bit, every weight and bias that pruning can change.

    Yields a function that restores them at once, to prune anew. Routers choose again as before.
    """
    tensors = [tensor for site in sites for tensor in (*site.parameters(), *_own_bias(site))]
    tensors = list({tensor.data_ptr(): tensor for tensor in tensors}.values())
    copies = [tensor.clone() for tensor in tensors]

    def restore() -> None:
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
        for site in sites:
            site.mark_removed()

    try:
        yield restore
    finally:
        restore()


def _own_bias(site: Site) -> list[Tensor]:
    """Return the bias of a consumer, which a compensation changes, if there is one."""
    bias = getattr(site.layer, "bias", None) if site.kind == "unit" else None
    return [] if bias is None else [bias.data]
