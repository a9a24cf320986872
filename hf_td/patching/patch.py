"""Patches a model for targeted dropout, anneals it, and restores the stock model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hf_td.anatomy import Anatomy, with_stacks
from hf_td.anatomy.given import anatomy_of, foreign_to
from hf_td.anatomy.replaced import check_not_fully_sharded
from hf_td.config import (
    CONFIG_KEY,
    IN_TRAINING,
    Rates,
    TargetedDropoutConfig,
    check_known,
    check_type,
    configure,
)
from hf_td.modules.compact_layout import layout_of_model
from hf_td.modules.unsharing import unshare_config
from hf_td.patching.cutoffs import first_cutoff, set_cutoffs
from hf_td.patching.distributed import exclude_from_ddp, include_in_ddp, sum_over_processes
from hf_td.patching.layers import (
    can_measure,
    check_computes_whole,
    check_rankable,
    check_targetable,
    is_targeted,
    kept,
    measured_features,
    measured_in,
    restore,
    set_buffer,
    start_measuring,
    stop_measuring,
    target,
)
from hf_td.patching.mistakes import EvalModeWatch, gradients_are_recorded, warn_if_in_trainer
from hf_td.ranking.activations import (
    ACTIVATIONS,
    INTERVAL,
    Activations,
    attach_activations,
    find_activations,
)
from hf_td.ranking.sites import Site, plan_sites

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)

_STATE = "_hf_td_patch"
NO_RATES = Rates(targeting=0.0, drop_rate=0.0)


class Fixed(Protocol):
    """The hooks that keep the zeros of a fixed pattern."""

    @property
    def active(self) -> bool:
        """True until `remove`."""
        ...

    def remove(self) -> None:
        """End the fixed phase."""
        ...


@dataclass
class Patch:
    """The record of a patched model.

    Attributes:
        config: the settings of the patch.
        anatomy: the reading of the model.
        sites: the ranked sites, in order.
        activations: moving averages that last from update to update; None if importance does not
            use them.
        rates: the rates of the current update.
        updates: number of updates so far; the number of the next one unless `anneal` gives another.
        recorded: the record of an earlier training in the model's config, or None.
        self_counting: True until the first `anneal`: each training forward counts as an update.
        measuring: True while measured sums wait to be added to the averages.
        watch: looks out for updates in eval mode.
        hook: calls `_before_forward`.
        fixed: what keeps the zeros in the fixed phase; None before. See `is_fixed`.
    """

    config: TargetedDropoutConfig
    anatomy: Anatomy
    sites: tuple[Site, ...]
    activations: Activations | None = None
    rates: Rates = NO_RATES
    updates: int = 0
    recorded: dict[str, Any] | None = None
    self_counting: bool = True
    measuring: bool = False
    watch: EvalModeWatch = field(default_factory=EvalModeWatch)
    hook: RemovableHandle | None = None
    fixed: Fixed | None = None

    @property
    def is_fixed(self) -> bool:
        """True in the fixed phase: every update is dense, and the zeros stay."""
        return self.fixed is not None and self.fixed.active

    def anatomy_for(self, model: nn.Module) -> Anatomy | None:
        """Return the reading; None where adapters or wrappers have renamed layers since."""
        return None if foreign_to(model, self.anatomy) else self.anatomy

    def release(self) -> None:
        """End the fixed phase, if it has begun."""
        if self.fixed is not None:
            self.fixed.remove()

    def advance(self, progress: float, update: int | None) -> None:
        """Set the rates, cut-offs and draws of one update, and start to measure if it is due."""
        for site in self.sites:
            check_computes_whole(site.name, site.layer)
            for layer in site.producers or (site.layer,):
                check_rankable(site.name, layer)
        number = self.updates if update is None else update
        self.update_averages()
        self.rates = NO_RATES if self.is_fixed else self.config.rates(progress, number)
        set_cutoffs(self.sites, self.config, self.rates, number)
        self.updates = number + 1
        if self.activations is not None and number % INTERVAL == 0 and not self.is_fixed:
            for site in self.sites:
                start_measuring(site.layer)
            self.measuring = True

    def resume(self, checkpoint: str | Path) -> bool:
        """Load the activations of a checkpoint; return False if it should have some and has none.

        Args:
            checkpoint: its folder.
        """
        if self.activations is None:
            return True
        saved = Activations.load(checkpoint)
        if saved is not None:
            self.activations.replace_by(saved)
            self._set_scales()
        return saved is not None

    @torch.no_grad()
    def update_averages(self) -> None:
        """Add the last measured update to the averages of activations.

        Idempotent. Collective: every process must call it.
        """
        if self.activations is None or not self.measuring:
            return
        self.measuring = False
        for site in self.sites:
            stop_measuring(site.layer)
        every = {site.name: measured_in(site.layer) for site in self.sites}
        sums = {name: pair for name, pair in every.items() if pair is not None}
        total = sum_over_processes([tensor for pair in sums.values() for tensor in pair])
        pairs = zip(total[::2], total[1::2], strict=True)
        self.activations.update(dict(zip(sums, pairs, strict=True)))
        self._set_scales()

    def _set_scales(self) -> None:
        for site in self.sites:
            scale = site.scale() if site.kind == "weight" else None
            if scale is not None and can_measure(site.layer):
                set_buffer(site.layer, "scale", scale)

    def dropped_share(self) -> float:
        """Return the fraction of the targeted weights that the current update drops."""
        dropped = sum(float((~kept(site.layer)).float().mean()) * site.size for site in self.sites)
        return dropped / sum(site.size for site in self.sites)


def patch_model(
    model: ModelT,
    config: TargetedDropoutConfig | None = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    anatomy: Anatomy | None = None,
    **overrides: Any,
) -> ModelT:
    """Replace projections, routers, or layers of stacks by targeted ones, in place.

    The parameters stay the same objects under the same names. The settings are recorded in the
    model's config; a model with a head gets a copy of its own. In eval mode the outputs do not
    change. Train the model with `TargetedDropoutTrainer`, or with any loop that calls `anneal`
    before each update. Until `anneal` is called, each training forward counts as an update at the
    final rates.

    Args:
        model: a `PreTrainedModel`, or any module together with `example_inputs`.
        config: the settings; None for the defaults.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.
        anatomy: the result of `read_anatomy(model)`; None to read the model here.
        **overrides: settings that replace those of `config`.

    Returns:
        `model` itself.

    Raises:
        TypeError: an override is no setting, or a layer is of a class that cannot be targeted.
        ValueError: the model is patched already, a weight is not finite, a pattern or a layer
            matches nothing, nothing is selected, or selected units cannot be dropped.
    """
    if find_patch(model) is not None:
        raise ValueError("the model is patched already; call unpatch_model(model) first")
    check_known(overrides, patch_model)
    config = configure(config, overrides)
    if config.importance not in IN_TRAINING:
        raise ValueError(
            f"importance {config.importance!r} can rank for pruning, but not while a model trains. "
            f"Use one of {list(IN_TRAINING)}"
        )
    anatomy = anatomy_of(model, anatomy, example_inputs)
    if config.layers_level != "none":
        anatomy = with_stacks(model, anatomy, example_inputs)
    activations = Activations() if config.importance == "activation" else None
    patch = Patch(config, anatomy, plan_sites(model, anatomy, config, activations), activations)
    for site in patch.sites:
        check_targetable(site.name, site.layer)
    if activations is not None:
        activations.replace_by(_measured_before(model, patch.sites))
    # Nothing below raises: a model is patched as a whole or left unchanged.
    before = _buffers(model)
    measured = activations is not None
    for site in patch.sites:
        scaled = measured and site.kind == "weight"
        target(site.layer, site.rule, first_cutoff(site), scaled=scaled, measured=measured)
    exclude_from_ddp(model, _buffers(model) - before)
    attach_activations(model, activations)
    if measured:
        patch._set_scales()
    setattr(model, _STATE, patch)
    patch.hook = model.register_forward_pre_hook(_before_forward)
    if hasattr(model, "config"):
        unshare_config(model)
        patch.recorded = getattr(model.config, CONFIG_KEY, None)
        setattr(model.config, CONFIG_KEY, config.to_dict())
    return model


def _measured_before(model: nn.Module, sites: Iterable[Site]) -> Activations:
    """Return the activations of the sites from an earlier training of this model."""
    found = find_activations(model) or Activations()
    names, squares = found.names(), found.mean_squares
    measured = [site for site in sites if can_measure(site.layer)]
    known = {
        site.name: squares[site.name]
        for site in measured
        if site.name in names and squares[site.name].numel() == measured_features(site.layer)
    }
    missing = [site.name for site in measured if site.name not in known]
    # Not parsed: it can be of a later version.
    earlier = getattr(getattr(model, "config", None), CONFIG_KEY, None) or {}
    lost = earlier.get("importance") == "activation" and layout_of_model(model) is None
    if missing and not known and lost:  # a compact model is saved without any
        cure = "The averages start anew, as they do for every export. Leave it so"
        logger.warning(ACTIVATIONS.missing(model, missing, cure))
    return Activations(known)


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def unpatch_model(model: ModelT) -> ModelT:
    """Restore the stock model, in place: the same classes, parameters and outputs.

    Its config keeps the record of the training, for `prune_model` and the model card. After a patch
    without updates it gets back its earlier record.

    Raises:
        TypeError: FSDP2 has sharded the model.
        ValueError: the model is not patched.
    """
    patch = _require_patch(model)
    check_not_fully_sharded(model)
    patch.release()
    before = _buffers(model)
    for site in patch.sites:
        restore(site.layer)
    include_in_ddp(model, before - _buffers(model))
    if patch.hook is not None:
        patch.hook.remove()
    for module in model.modules():
        if module.__dict__.pop(_STATE, None) is not None and not patch.updates:
            _restore_record(module, patch.recorded)
    return model


def _restore_record(model: Any, recorded: dict[str, Any] | None) -> None:
    """Restore the record that a model's config had before the patch, or its absence."""
    if recorded is not None:
        setattr(model.config, CONFIG_KEY, recorded)
    elif hasattr(getattr(model, "config", None), CONFIG_KEY):
        delattr(model.config, CONFIG_KEY)


def anneal(model: nn.Module, progress: float, update: int | None = None) -> Rates:
    """Set the rates and the cut-offs of the next update; call it before each update.

    They last until the next call.

    Args:
        model: a patched model, or a wrapper around one.
        progress: completed updates over all updates, in [0, 1].
        update: the number of the update, for instance the number of completed updates. It keys the
            draws, so a resumed run that gives it draws like an uninterrupted run. None to count
            calls.

    Returns:
        The rates of this update: targeting and drop rate.

    Raises:
        TypeError: progress is no number, or update no integer.
        ValueError: the model is not patched, update is below 0, progress is outside [0, 1], or the
            fixed phase has come and `fix_pattern` was not called.
    """
    check_type("progress", progress, "completed over all updates, in [0, 1]", Real)
    if update is not None:
        check_type("update", update, "the number of the update, an integer, or None", Integral)
        if update < 0:
            raise ValueError(f"update is the number of the update, at least 0; got {update}")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is completed over all updates, in [0, 1]; got {progress}")
    patch = _require_patch(model)
    patch.self_counting = False
    if patch.config.is_fixed(progress) and not patch.is_fixed:
        raise ValueError(
            f"the fixed phase begins at progress {patch.config.fixed_from:g}, and the pattern is "
            "not fixed. Call fix_pattern(model, optimizer=optimizer) before this anneal"
        )
    patch.advance(progress, update)
    return patch.rates


def find_patch(model: nn.Module) -> Patch | None:
    """Return the record of a patched model, also inside wrappers; None if it is not patched.

    Raises:
        TypeError: `model` is no module.
        ValueError: several parts of the model are patched separately, or a model around it is.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model, a torch.nn.Module, got {model!r}")
    states = [m.__dict__[_STATE] for m in model.modules() if _STATE in m.__dict__]
    if len({id(state) for state in states}) > 1:
        raise ValueError(
            f"{len(states)} parts of {type(model).__name__} are patched separately, and would be "
            "annealed separately. Unpatch them, and patch the whole model with include=[...]"
        )
    if not states:
        _check_no_orphans(model)
    return states[0] if states else None


def _check_no_orphans(model: nn.Module) -> None:
    """Raise ValueError if layers are targeted by a patch of another model than this one."""
    orphans = [name for name, module in model.named_modules() if is_targeted(module)]
    if orphans:
        raise ValueError(
            f"{len(orphans)} layers of {type(model).__name__} are targeted, such as {orphans[0]}, "
            "by the patch of a model around it. Only the model that was patched can be annealed, "
            "pruned or unpatched. Pass that model; before adapters are merged, unpatch it"
        )


def _require_patch(model: nn.Module) -> Patch:
    patch = find_patch(model)
    if patch is None:
        raise ValueError(f"{type(model).__name__} is not patched; call patch_model(model) first")
    return patch


def _before_forward(model: nn.Module, args: Any) -> None:
    patch: Patch = model.__dict__[_STATE]
    if model.training:
        patch.watch.see_training()
        if patch.self_counting:
            # Not a decorator: torch.compiler.disable imports the compiler, which takes a second.
            count = torch.compiler.disable(_count) if torch.compiler.is_compiling() else _count
            count(model)
    elif gradients_are_recorded():
        patch.watch.see_evaluation(model, patch.updates, annealed=not patch.self_counting)


def _count(model: nn.Module) -> None:
    patch = _require_patch(model)
    if not patch.updates:
        warn_if_in_trainer(model)
    patch.advance(progress=1.0, update=None)
