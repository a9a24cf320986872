"""Advice on what cannot be targeted: settings with which the same call succeeds at once."""

from __future__ import annotations

from collections.abc import Collection

from hf_td.anatomy import Anatomy, Block, Holder, Mixture
from hf_td.config import TargetedDropoutConfig, matches


def without_refused(anatomy: Anatomy, config: TargetedDropoutConfig) -> str:
    """Return the settings that leave out everything whose units cannot be dropped.

    A part (attention, for instance) that is refused as a whole gets another level. Where nothing
    else is targeted, this is the weight level.
    """
    chosen = [h for h in anatomy.holders if _is_chosen(h, config)]
    refused = [h for h in chosen if _is_refused(h, config)]
    rest = [h for h in chosen if h not in refused]
    level = "none" if rest else "weight"
    whole = [part for part in _parts(refused) if part not in _parts(rest)]
    settings = [f"{part}_level={level!r}" for part in whole if part != "experts"]
    if "experts" in whole:
        settings.append("experts_level='none'")
        if not rest and "feed_forward" not in whole:
            settings.append("feed_forward_level='weight'")
    single = [name_of(h) for h in refused if h.part not in whole]
    if single:
        settings.append(exclude(single, [name_of(h) for h in rest], config))
    return f"Use {', '.join(settings)}"


def excluding(
    names: Collection[str], others: Collection[str], config: TargetedDropoutConfig
) -> str:
    """Return the setting that leaves out all of `names`, and nothing else of `others`."""
    return f"use {exclude(names, [n for n in others if n not in names], config)}"


def name_of(holder: Holder) -> str:
    """Return the name that patterns are matched with to select the units of a holder."""
    if isinstance(holder, Block):
        return holder.consumer.module
    return holder.router or holder.experts


def general(name: str) -> str:
    """Return the pattern of a dotted name in every layer: `*` for each number."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def exclude(names: Collection[str], others: Collection[str], config: TargetedDropoutConfig) -> str:
    """Return the value of `exclude` that leaves out all of `names`, and nothing of `others`."""
    patterns: dict[str, None] = dict.fromkeys(config.exclude)
    for name in names:
        pattern = general(name)
        patterns[name if any(matches(n, (pattern,)) for n in others) else pattern] = None
    return f"exclude={list(patterns)}"


def _is_chosen(holder: Holder, config: TargetedDropoutConfig) -> bool:
    level = config.level_of(holder.part)
    if level == "none" or (isinstance(holder, Mixture) and holder.chosen == holder.units):
        return False
    names: tuple[str, ...] = (name_of(holder),)
    if isinstance(holder, Block) and level == "weight":
        names = holder.modules
    return any(config.selects(name, holder.layer) for name in names)


def _is_refused(holder: Holder, config: TargetedDropoutConfig) -> bool:
    return holder.obstacle is not None and config.level_of(holder.part) == "unit"


def _parts(holders: Collection[Holder]) -> list[str]:
    return list(dict.fromkeys(holder.part for holder in holders))
