"""Names the even widths that a stock config can say, nearest to those of a pruned model."""

from __future__ import annotations

from collections.abc import Mapping

from hf_td.anatomy import Holder
from hf_td.hub.forms.form import Source
from hf_td.hub.stock_config import Units, build_empty, express, units_of
from hf_td.modules.stock_models import stock_config

_WORDS = {"attention": "heads", "feed_forward": "neurons", "experts": "experts"}


def nearest_even(source: Source) -> str:
    """Return a sentence with the nearest even widths, and the call that prunes to them.

    In every block of a part as many units stay as stay on average, and more where a stock config
    cannot say that.

    Args:
        source: a model that was pruned to widths which a stock config cannot say.
    """
    model, holders = source.model, source.anatomy.holders
    whole = units_of(build_empty(model, stock_config(model.config, {})), holders)
    units = express(model, holders, _even(source.needed, whole))[1]
    fewer = {holder: n for holder, n in units.items() if n < whole[holder]}
    if not fewer:
        return "No stock config says fewer units than the whole model has"
    parts = {part: _of_part(part, fewer, whole) for part in dict.fromkeys(h.part for h in fewer)}
    kept = " and ".join(words for words, _ in parts.values())
    removed = ", ".join(f"'{part}': {amount}" for part, (_, amount) in parts.items())
    options = " ".join(f"{part}={amount}" for part, (_, amount) in parts.items())
    experts = ", experts_level='unit'" if "experts" in parts else ""
    return (
        f"The nearest that a stock config can say is {kept} in every layer. Load the model from "
        f"before pruning, and call prune_model(model, {{{removed}}}, level='unit'{experts})"
        + ("" if experts else f", or hf-td prune --sparsity {options}")
    )


def _even(needed: Mapping[Holder, int], whole: Units) -> Units:
    """Return the mean of what is needed in blocks of one part and size."""
    groups: dict[tuple[str, int], list[Holder]] = {}
    for holder in needed:
        groups.setdefault((holder.part, whole[holder]), []).append(holder)
    even: Units = {}
    for group in groups.values():
        mean = round(sum(needed[holder] for holder in group) / len(group))
        even |= dict.fromkeys(group, max(1, mean))
    return even


def _of_part(part: str, fewer: Units, whole: Units) -> tuple[str, int | float]:
    """Return the kept units of a part in words, and how much of it is removed.

    The amount is a number of units where all blocks are alike, else a fraction.
    """
    pairs = {(n, whole[holder]) for holder, n in fewer.items() if holder.part == part}
    words = " or ".join(f"{n} of {all_units}" for n, all_units in sorted(pairs))
    if len(pairs) == 1:
        ((n, all_units),) = pairs
        return f"{words} {_WORDS[part]}", all_units - n
    kept, total = (sum(column) for column in zip(*pairs, strict=True))
    return f"{words} {_WORDS[part]}", round(1 - kept / total, 2)
