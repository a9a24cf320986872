"""Exports of pruned models: written, described, published and loaded."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_td.hub.archive import load_archive as load_archive
    from hf_td.hub.archive import save_archive as save_archive
    from hf_td.hub.card.info import CardInfo as CardInfo
    from hf_td.hub.card.latency import Latency as Latency
    from hf_td.hub.card.latency import measure_latency as measure_latency
    from hf_td.hub.export import Export as Export
    from hf_td.hub.export import export_model as export_model
    from hf_td.hub.forms.archive import load_archived_model as load_archived_model
    from hf_td.hub.push.commit import push_to_hub as push_to_hub

# Public name to its module, which is imported at the first use.
_HOMES = {
    "CardInfo": "card.info",
    "Export": "export",
    "Latency": "card.latency",
    "export_model": "export",
    "load_archive": "archive",
    "load_archived_model": "forms.archive",
    "measure_latency": "card.latency",
    "push_to_hub": "push.commit",
    "save_archive": "archive",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
