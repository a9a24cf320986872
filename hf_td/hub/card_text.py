"""What a model card says in sentences and how it writes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

import hf_td
from hf_td.analysis.metrics import metric_value
from hf_td.hub.card_info import CardInfo

# How the template writes numbers.
FORMATS: dict[str, Any] = {
    "number": lambda count: f"{count:,}",
    "percent": lambda fraction: f"{fraction:.1%}",
    "megabytes": lambda count: f"{count / 1e6:,.2f} MB",
    "value": metric_value,
}


def versions() -> str:
    """The versions that this process exports with."""
    modules = {"hf_td": hf_td, "transformers": transformers, "torch": torch}
    return ", ".join(f"{name} {module.__version__}" for name, module in modules.items())


def limitations(info: CardInfo, export: Mapping[str, Any], license: str | None) -> list[str]:
    """What follows from the facts, and what the caller adds.

    Args:
        info: what the caller knows.
        export: `form`, `removal` and `parameters` of the export.
        license: identifier, if it is known.
    """
    removal, form = export["removal"], export["form"]
    stored = removal.removed > 0 and export["parameters"] == removal.parameters
    sentences = {
        _on_quality(info): True,
        "Its speed was not measured.": info.latency is None,
        "What was removed is stored as zeros: the files are as large as those of the dense model, "
        "and a forward takes as long, except on engines that make use of zeros.": stored,
        "Part of what was removed is stored as zeros.": form == "padded" and not stored,
        "It has the limits and the biases of its base model.": info.base_model is not None,
        "Its licence is unknown.": license is None,
    }
    return [*(text for text, holds in sentences.items() if holds), *info.limitations]


def _on_quality(info: CardInfo) -> str:
    if info.exported_point is not None:
        return "Its quality was measured as shown above, and on no other data."
    if info.points:
        return "Which row of the table this model is was not recorded."
    return "No metric was recorded with it."
