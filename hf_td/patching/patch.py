"""Patch a model for targeted dropout, anneal it, and give the stock model back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_td.anatomy import Anatomy, read_anatomy
from hf_td.config import CONFIG_KEY, IN_TRAINING, Rates, TargetedDropoutConfig, configure
from hf_td.patching.bundles import bundle
from hf_td.patching.distributed import keep_to_each, keep_to_each_no_more, sum_over_processes
from hf_td.patching.freezing import hold
from hf_td.patching.layers import (
    can_be_bundled,
    can_measure,
    check_targetable,
    check_whole,
    measure_anew,
    measured_features,
    measured_in,
    restore,
    target,
)
from hf_td.patching.masks import Masks
from hf_td.ranking.activations import (
    INTERVAL,
    Activations,
    Meter,
    attach_activations,
    find_activations,
)
from hf_td.ranking.sites import Site, plan_sites

ModelT = TypeVar("ModelT", bound=nn.Module)

_STATE = "_hf_td_patch"
NO_RATES = Rates(targeting=0.0, drop_rate=0.0)


@dataclass
class Patch:
    """What is known of a patched model.

    Attributes:
        config: how it was patched.
        anatomy: the reading that it rests on.
        sites: where masks are drawn, in order.
        activations: measured while it trains, where importance needs them.
        rates: those of the current update.
        updates: masks drawn so far; numbers the updates where nobody says which one it is.
        holds: on what does not learn in the current update.
        meter: says to the layers in which updates they measure.
        unsettled: whether an update is measured whose activations are not in the averages yet.
        masks: draws the masks of its sites.
        recorded: what the model's config recorded of an earlier training.
        checked: the first weight when it was seen that all weights are whole.
        self_counting: the hook that draws a mask before each training forward; None once
            `anneal` was called.
    """

    config: TargetedDropoutConfig
    anatomy: Anatomy
    sites: tuple[Site, ...]
    activations: Activations | None = None
    rates: Rates = NO_RATES
    updates: int = 0
    holds: list[RemovableHandle] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    unsettled: bool = False
    self_counting: RemovableHandle | None = None
    recorded: dict[str, Any] | None = None
    checked: Tensor | None = None
    masks: Masks = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.masks = Masks(self.sites, self.config)

    @torch.no_grad()
    def advance(self, model: nn.Module, progress: float, update: int | None) -> None:
        """Set the rates for `progress` and draw the masks of one update of the model."""
        self._check_weights()
        number = self.updates if update is None else update
        self.settle_activations()
        self.rates = self.config.rates(progress, number)
        self.masks.draw(self.rates, number)
        self.let_go()
        if self.rates.learning < 1:
            self.holds = hold(model, self.masks.candidates(self.rates.learning))
        self.updates = number + 1
        if self.activations is not None:
            self._choose_to_measure(number % INTERVAL == 0)

    def _check_weights(self) -> None:
        """Raise TypeError where weights were sharded since; whoever does that replaces all."""
        first = self.sites[0].layer.weight
        if first is self.checked and first.dim() > 1:
            return
        for site in self.sites:
            check_whole(site.name, site.layer)
        self.checked = first

    def let_go(self) -> None:
        """Let everything learn again."""
        while self.holds:
            self.holds.pop().remove()

    def resume(self, checkpoint: str | Path) -> bool:
        """Go on with the activations in the folder of a checkpoint; False if it has none."""
        if self.activations is None:
            return True
        saved = Activations.load(checkpoint)
        if saved is not None:
            self.activations.take(saved)
        return saved is not None

    def _choose_to_measure(self, this_update: bool) -> None:
        self.meter.on = self.unsettled = this_update
        if this_update:
            for site in self.sites:
                measure_anew(site.layer)

    def _sums(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What the layers have summed up, by their names."""
        every = {site.name: measured_in(site.layer) for site in self.sites}
        return {name: pair for name, pair in every.items() if pair is not None}

    @torch.no_grad()
    def settle_activations(self) -> None:
        """Add what the last update saw to the moving averages, if it was measured; but once.

        All processes that train together must come here, since their sums are added up.
        """
        if self.activations is None or not self.unsettled:
            return
        self.unsettled = False
        sums = self._sums()
        seen = sum_over_processes([tensor for pair in sums.values() for tensor in pair])
        pairs = zip(seen[::2], seen[1::2], strict=True)
        self.activations.update(dict(zip(sums, pairs, strict=True)))

    def dropped_share(self) -> float:
        """The fraction of the targeted weights that the current update drops."""
        kept = total = 0.0
        for site in self.sites:
            kept += float((site.layer.keep != 0).float().mean()) * site.size
            total += site.size
        return 1 - kept / total


def patch_model(
    model: ModelT,
    config: TargetedDropoutConfig | None = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> ModelT:
    """Replace attention and feed-forward projections, or routers, by targeted variants, in place.

    The parameters stay the same objects under the same names; in eval mode the model computes
    what it computed before. Train it with `TargetedDropoutTrainer`, or with any loop that calls
    `anneal` before each update; where nobody does, each training forward counts as an update at
    the final rates.

    Args:
        model: a `PreTrainedModel` (or any module, with `example_inputs`).
        config: the settings; the defaults where it is None.
        example_inputs: keyword arguments for one forward of `model.base_model`, needed only
            where the kind of its main input is not known.
        **overrides: settings that replace those of `config`.

    Returns:
        `model` itself.

    Raises:
        TypeError: an override is no setting, or a layer is of a class that cannot be targeted.
        ValueError: the model is patched already, nothing (or not everything that was named)
            matches, or its units cannot be dropped.
    """
    if find_patch(model) is not None:
        raise ValueError("the model is patched already; call unpatch_model(model) first")
    config = configure(config, overrides)
    if config.importance not in IN_TRAINING:
        raise ValueError(
            f"importance {config.importance!r} can rank for pruning, but not while a model trains; "
            f"there it is one of {list(IN_TRAINING)}"
        )
    anatomy = read_anatomy(model, example_inputs)
    activations = Activations() if config.importance == "activation" else None
    patch = Patch(config, anatomy, plan_sites(model, anatomy, config, activations), activations)
    meter = None
    for site in patch.sites:
        check_targetable(site.name, site.layer)
    if activations is not None:
        activations.take(_measured_before(model, patch.sites))
        meter = patch.meter
    # From here on nothing fails: a model is patched as a whole or left as it was.
    before = _buffers(model)
    for site in patch.sites:
        target(site.layer, _everything(site.layer.weight), meter=meter)
    keep_to_each(model, _buffers(model) - before)
    bundle(site.layer for site in patch.sites if can_be_bundled(site.layer))
    attach_activations(model, activations)
    setattr(model, _STATE, patch)
    _known.clear()
    patch.self_counting = model.register_forward_pre_hook(_count_forward)
    if hasattr(model, "config"):
        patch.recorded = getattr(model.config, CONFIG_KEY, None)
        setattr(model.config, CONFIG_KEY, config.to_dict())
    return model


def _measured_before(model: nn.Module, sites: Iterable[Site]) -> Activations:
    """What is known of the layers from a training before, of this model or of where it lay."""
    found = find_activations(model) or Activations()
    names, squares = found.names(), found.mean_squares
    known = (site for site in sites if site.name in names and can_measure(site.layer))
    return Activations(
        {
            site.name: squares[site.name]
            for site in known
            if squares[site.name].numel() == measured_features(site.layer)
        }
    )


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def _everything(weight: Tensor) -> Tensor:
    """The mask until the first draw: one True, since to fill a mask would take longer than all."""
    return torch.ones((1,) * weight.dim(), dtype=torch.bool, device=weight.device)


def unpatch_model(model: ModelT) -> ModelT:
    """Give the stock model back, in place: the same classes, parameters and outputs.

    Its config goes on recording how it was trained, for `prune_model` and the model card; where no
    update was drawn, what it recorded before.

    Raises:
        ValueError: the model is not patched.
    """
    patch = _require_patch(model)
    patch.let_go()
    before = _buffers(model)
    for site in patch.sites:
        restore(site.layer)
    keep_to_each_no_more(model, before - _buffers(model))
    _stop_counting(patch)
    _known.clear()
    for module in model.modules():
        if module.__dict__.pop(_STATE, None) is not None and not patch.updates:
            _record_again(module, patch.recorded)
    return model


def _record_again(model: Any, recorded: dict[str, Any] | None) -> None:
    """Let the config of a model record what it did before it was patched."""
    if recorded is not None:
        setattr(model.config, CONFIG_KEY, recorded)
    elif hasattr(getattr(model, "config", None), CONFIG_KEY):
        delattr(model.config, CONFIG_KEY)


def anneal(model: nn.Module, progress: float, update: int | None = None) -> Rates:
    """Set the rates and draw the masks for the update that comes; call it before each one.

    Args:
        model: a patched model, or a wrapper around one.
        progress: completed updates over all updates, in [0, 1].
        update: the number of the update, which keys the draws. Give it (for instance the number
            of completed updates) so that a resumed run draws as an uninterrupted one; without
            it calls are counted.

    Returns:
        The rates of this update: targeting and drop rate.

    Raises:
        ValueError: the model is not patched, or progress is outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is completed over all updates, in [0, 1]; got {progress}")
    patch = _require_patch(model)
    _stop_counting(patch)
    patch.advance(model, progress, update)
    return patch.rates


def find_patch(model: nn.Module) -> Patch | None:
    """What is known of a patched model, also through wrappers; None if it is not patched.

    Raises:
        TypeError: it is no model.
        ValueError: parts of it are patched each by itself.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model, a torch.nn.Module, got {model!r}")
    if model in _known:
        return _known[model]
    states = [m.__dict__[_STATE] for m in model.modules() if _STATE in m.__dict__]
    if len({id(state) for state in states}) > 1:
        raise ValueError(
            f"{len(states)} parts of {type(model).__name__} are patched each by itself, and would "
            "be annealed each by itself; unpatch them and patch the whole model, with include=[...]"
        )
    if states:
        _known[model] = states[0]
    return states[0] if states else None


def _require_patch(model: nn.Module) -> Patch:
    patch = find_patch(model)
    if patch is None:
        raise ValueError(f"{type(model).__name__} is not patched; call patch_model(model) first")
    return patch


# What was found, until something is patched or unpatched: each update asks, and a search walks
# through all modules.
_known: WeakKeyDictionary[nn.Module, Patch] = WeakKeyDictionary()


def _stop_counting(patch: Patch) -> None:
    if patch.self_counting is not None:
        patch.self_counting.remove()
        patch.self_counting = None


def _count_forward(model: nn.Module, args: Any) -> None:
    if model.training:
        # Looked up here, since it takes a second to load what decorates by it.
        count = torch.compiler.disable(_count) if torch.compiler.is_compiling() else _count
        count(model)


def _count(model: nn.Module) -> None:
    _require_patch(model).advance(model, progress=1.0, update=None)
