"""The form `stock`: uniform widths, in the fields of the stock config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_td.anatomy import Holder, Mixture
from hf_td.hub.auto_classes import auto_class
from hf_td.hub.even import nearest_even
from hf_td.hub.forms.form import Form, Place, Plan, Refusal, Source, loading_code
from hf_td.hub.stock_config import express, unexpressed
from hf_td.hub.way import Way


class Stock(Form):
    """A checkpoint that plain `from_pretrained` loads."""

    def plan(self, source: Source) -> Plan:
        """Find a stock config for the units that are needed.

        Raises:
            Refusal: a stock config has no field for the widths, or not of these numbers.
        """
        holders, needed = source.anatomy.holders, source.needed
        config, units = express(source.model, holders, needed)
        wider = [holder for holder, n in units.items() if n > needed.get(holder, holder.units)]
        lost = unexpressed(source.model, holders, config)
        reason = f"no stock config expresses the widths of {_listed([*_names(wider), *lost])}"
        _check_experts(wider, reason)
        exception = self._excuse(wider, reason, keep_heads=source.keep_heads_stock)
        missing = _names([holder for holder, n in units.items() if n > holder.units]) + lost
        if missing:
            raise Refusal(
                f"{_listed(missing)} would have to be padded, but their pruned units were taken "
                "out already; export the masked model (before compact_model), or use "
                "form='compact'",
                reason,
            )
        return Plan(
            units=units,
            config=config,
            reason="a stock config expresses every width",
            exception=exception,
        )

    def cure(self, source: Source) -> str:
        """Return the nearest even widths."""
        return nearest_even(source)

    def _excuse(self, wider: Sequence[Holder], reason: str, *, keep_heads: bool) -> str:
        """Return why holders may be wider than they need; raise Refusal where they may not."""
        heads = all(holder.part == "attention" for holder in wider)
        if wider and not (heads and keep_heads):
            hint = "keep_heads_stock=True (--keep-heads-stock), " if heads else ""
            raise Refusal(
                f"a stock config cannot express the widths of {_listed(_names(wider))}; pass "
                f"{hint}form='padded' (zeros up to what it can express) or form='compact'",
                reason,
            )
        return "all heads kept" if wider else ""

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write what `save_pretrained` writes."""
        model.save_pretrained(folder)

    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return plain `from_pretrained`."""
        loader = auto_class(model)
        call = f"{loader}.from_pretrained(model_id)"
        return (Way(name="stock", loader=loader, call=call, without_hf_td=True),)

    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return the call of `from_pretrained`."""
        (way,) = self.ways(exported)
        return f"{loading_code(way, place)}\n\nIt needs nothing but transformers."


def _check_experts(wider: Sequence[Holder], reason: str) -> None:
    """Raise Refusal for experts to pad: the router of a stock model would choose the zeros."""
    uneven = _names([holder for holder in wider if isinstance(holder, Mixture)])
    if uneven:
        raise Refusal(
            "a stock config cannot express the numbers of experts that are left, first of "
            f"{_listed(uneven)}, and experts cannot be padded with zeros; use form='compact'",
            reason,
        )


def _names(holders: Sequence[Holder]) -> list[str]:
    return [holder.name for holder in holders]


def _listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


FORM = Stock()
