"""Chooses what `prune_model` ranks, and what it ranks by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from hf_td.anatomy import Anatomy, with_stacks
from hf_td.anatomy.given import anatomy_of
from hf_td.config import TargetedDropoutConfig, configure, trained_with
from hf_td.patching.layers import can_measure
from hf_td.patching.patch import find_patch
from hf_td.pruning.first_order import movement_scores, taylor_scores
from hf_td.pruning.routed_outputs import reap_scores
from hf_td.ranking.activations import (
    ACTIVATIONS,
    INTERVAL,
    Activations,
    find_activations,
    measure_activations,
)
from hf_td.ranking.learned import LEARNED, find_learned
from hf_td.ranking.sites import Site, plan_sites
from hf_td.ranking.sites.experts import ExpertSite

logger = logging.getLogger(__name__)

Batches = Iterable[Mapping[str, Any]]
Sites = tuple[Site, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The inputs of a ranking beside the weights; at most one of the three is given.

    Attributes:
        calibration: batches of training data.
        activations: measured activations.
        scores: by the name of the site.
    """

    calibration: Batches | None = None
    activations: Activations | None = None
    scores: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.activations, Activations | None):
            raise TypeError(
                f"activations is an Activations, got {type(self.activations).__name__}. Pass what "
                "measure_activations or find_activations returned, or Activations(mean_squares)"
            )
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given, and each of them says what to rank by. "
                "Pass one of them"
            )

    def settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return the overrides with the importance that the evidence implies.

        Raises:
            ValueError: the overrides ask for another importance.
        """
        for name, implied in (("scores", "learned"), ("activations", "activation")):
            if getattr(self, name) is not None:
                asked = overrides.get("importance", implied)
                if asked != implied:
                    raise ValueError(
                        f"importance={asked!r} does not use {name}. With {name}=... importance is "
                        f"{implied!r}. Leave one of them out"
                    )
                return {**overrides, "importance": implied}
        return dict(overrides)


def sites_to_prune(
    model: nn.Module, config: TargetedDropoutConfig | None = None, **options: Any
) -> Sites:
    """Return what `prune_model` ranks, given the same arguments."""
    return select_sites(model, config, **options)[1]


def select_sites(
    model: nn.Module,
    config: TargetedDropoutConfig | None = None,
    *,
    calibration: Batches | None = None,
    activations: Activations | None = None,
    scores: Mapping[str, Tensor] | None = None,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    compensates: bool = False,
    **overrides: Any,
) -> tuple[Anatomy, Sites]:
    """Return the anatomy of a model and what `prune_model` ranks, given the same arguments.

    `compensates` says that the calibration has a use beside the ranking.
    """
    if compensates and (activations is not None or scores is not None):
        calibration = None
    evidence = Evidence(calibration=calibration, activations=activations, scores=scores)
    overrides = evidence.settings(overrides)
    config = config or _trained_with(model)
    if config is None and "importance" not in overrides:
        learned = find_learned(model)
        if learned:
            evidence = Evidence(scores=learned)
        default = "magnitude" if calibration is None else "activation"
        overrides["importance"] = "learned" if learned else default
    config = configure(config, overrides)
    if calibration is not None and not compensates:
        _check_reads(config.importance)
    anatomy = anatomy_of(model, anatomy, example_inputs)
    if config.layers_level != "none":
        anatomy = with_stacks(model, anatomy, example_inputs)
    sites = plan_sites(model, anatomy, config)
    _check_own_weights(sites)
    _check_merged(model, sites)
    return anatomy, _RANKED_BY[config.importance](model, sites, config, evidence)


def _check_reads(importance: str) -> None:
    """Raise if nothing would read the calibration."""
    if importance in ("magnitude", "random", "learned"):
        raise ValueError(
            f"calibration is given, and importance {importance!r}, which was asked for or is that "
            "of the model's training, measures nothing on data. Leave the calibration out, or "
            "give another importance, such as importance='activation' (--importance activation)"
        )


def _trained_with(model: nn.Module) -> TargetedDropoutConfig | None:
    """Return the settings of the patch, or those recorded in the model's config, if it has one."""
    patch = find_patch(model)
    return trained_with(model) if patch is None else patch.config


def _check_own_weights(sites: Sites) -> None:
    """Raise if a weight is computed at each reading: zeros written to it would be lost."""
    computed = [site.name for site in sites if not isinstance(site.layer.weight, nn.Parameter)]
    if computed:
        raise ValueError(
            f"the weight of {computed[0]} is no parameter but computed, as under a baseline or any "
            "other parametrization. Call finish_baseline, or remove the parametrization, first"
        )


def _check_merged(model: nn.Module, sites: Sites) -> None:
    """Raise if single weights have an adapter beside them: a merge would refill their zeros."""
    for site in sites:
        adapted = _adapter_around(model, site.name)
        if site.kind == "weight" and adapted is not None:
            raise ValueError(
                f"{adapted} has an adapter beside its weight. A merge would refill the weights "
                "that pruning sets to zero. Call merge_and_unload() first, and prune the result"
            )


def _adapter_around(model: nn.Module, name: str) -> str | None:
    """Return the name of the module with an unmerged adapter that contains the layer."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        path = ".".join(parts[:length])
        module = model.get_submodule(path)
        if hasattr(module, "base_layer") and not getattr(module, "merged", False):
            return path
    return None


def _by_sites(
    model: nn.Module, sites: Sites, config: TargetedDropoutConfig, evidence: Evidence
) -> Sites:
    return sites


def _by_activation(
    model: nn.Module, sites: Sites, config: TargetedDropoutConfig, evidence: Evidence
) -> Sites:
    names = [site.name for site in sites if can_measure(site.layer)]
    if evidence.calibration is not None:
        known = measure_activations(model, names, evidence.calibration)
    else:
        known = evidence.activations or _activations_of(model, sites)
    measured = set() if known is None else known.names()
    missing = [name for name in names if name not in measured]
    # In training a layer without activations is ranked by the weights alone, and so it is here.
    own = evidence.calibration is None and evidence.activations is None
    patch = find_patch(model)
    as_trained = own and (patch is not None or config == trained_with(model))
    if known is None or (measured and missing and not as_trained):
        cure = (
            "Pass a few batches of training data as calibration=... (--calibration TEXTS), prune "
            "by importance='magnitude' (--importance magnitude)"
        )
        raise ValueError(ACTIVATIONS.missing(model, missing, cure))
    # Before the first updates, and until their sums are averaged, nothing is amiss.
    settled = own and patch is not None and patch.updates > 0 and not patch.measuring
    if missing and (measured or settled):
        logger.warning(
            "%s, and %d layers in all, ran in no update that measured activations, one in %d. So "
            "magnitude alone ranks them. If they should stay whole, leave them out by "
            "exclude=[...] when you patch",
            missing[0],
            len(missing),
            INTERVAL,
        )
    ACTIVATIONS.check({name: known.mean_squares[name] for name in names if name in measured})
    return tuple(replace(site, activations=known) for site in sites)


def _activations_of(model: nn.Module, sites: Sites) -> Activations | None:
    """Return the activations of a model, by the names of its sites.

    Adapters and wrappers that came after the patch have renamed layers, whose weights they kept.
    """
    known, patch = find_activations(model), find_patch(model)
    if known is None or patch is None:
        return known
    measured = {_key(site): site.name for site in patch.sites if site.name in known.names()}
    renamed = {site.name: measured.get(_key(site), site.name) for site in sites}
    squares = known.mean_squares
    return Activations({new: squares[old] for new, old in renamed.items() if old in known.names()})


def _key(site: Site) -> tuple[str, int]:
    return site.kind, id(site.layer.weight)


def _by_learned(
    model: nn.Module, sites: Sites, config: TargetedDropoutConfig, evidence: Evidence
) -> Sites:
    scores = find_learned(model) if evidence.scores is None else evidence.scores
    missing = [site.name for site in sites if site.name not in scores]
    if missing and evidence.scores is not None:
        raise ValueError(
            f"scores has no entry for {missing[0]}, of {len(missing)} that are missing. It needs a "
            f"tensor for each of {[site.name for site in sites]}. Add these"
        )
    if missing:
        cure = (
            "Train with a method that learns scores at this level, prune by importance='magnitude'"
        )
        raise ValueError(LEARNED.missing(model, missing, cure))
    for site in sites:
        shape, found = site.ranked_shape, tuple(scores[site.name].shape)
        if found != shape:
            raise ValueError(
                f"The learned scores of {site.name} have the shape {found}, and {shape} is needed. "
                "They were learned at another level or for another model. Train with a method that "
                "learns scores at this level, or prune by importance='magnitude'."
            )
    return _with_scores(sites, scores, "scores")


def _by_gradient(
    model: nn.Module, sites: Sites, config: TargetedDropoutConfig, evidence: Evidence
) -> Sites:
    if evidence.calibration is None:
        raise ValueError(
            f"importance {config.importance!r} looks at gradients. Pass a few batches of training "
            "data, with labels, as calibration=..."
        )
    experts = [site.name for site in sites if site.kind == "expert"]
    if experts:
        raise ValueError(
            f"importance {config.importance!r} cannot rank the experts of {experts[0]}: without "
            "one the router chooses another, which no gradient shows. Use importance='magnitude' "
            "or 'activation'"
        )
    layers = [site.name for site in sites if site.kind == "layer"]
    if layers:
        raise ValueError(
            f"importance {config.importance!r} cannot rank the layers of {layers[0]}: it is a sum "
            "over the weights of one consumer. Use importance='magnitude' or 'activation'"
        )
    measure = {"taylor": taylor_scores, "movement": movement_scores}[config.importance]
    return _with_scores(sites, measure(model, sites, evidence.calibration), "scores by gradients")


def _by_routed_output(
    model: nn.Module, sites: Sites, config: TargetedDropoutConfig, evidence: Evidence
) -> Sites:
    experts = [site for site in sites if isinstance(site, ExpertSite)]
    others = [site.name for site in sites if not isinstance(site, ExpertSite)]
    if others:
        raise ValueError(
            f"importance 'reap' ranks whole experts alone, and {others[0]} has none. Prune them by "
            "a call of their own: attention_level='none', feed_forward_level='none', "
            "experts_level='unit'"
        )
    if evidence.calibration is None:
        raise ValueError(
            "importance 'reap' measures experts on data. Pass a few batches of training data as "
            "calibration=..."
        )
    return _with_scores(sites, reap_scores(model, experts, evidence.calibration), "scores of REAP")


def _with_scores(sites: Sites, scores: Mapping[str, Tensor], noun: str) -> Sites:
    LEARNED.check({site.name: scores[site.name] for site in sites}, noun)
    return tuple(replace(s, given=scores[s.name].to(s.layer.weight.device)) for s in sites)


# From an importance to what gives the sites their scores. Another importance is another row.
_RANKED_BY: dict[str, Callable[[nn.Module, Sites, TargetedDropoutConfig, Evidence], Sites]] = {
    "magnitude": _by_sites,
    "activation": _by_activation,
    "learned": _by_learned,
    "random": _by_sites,
    "taylor": _by_gradient,
    "movement": _by_gradient,
    "reap": _by_routed_output,
}
