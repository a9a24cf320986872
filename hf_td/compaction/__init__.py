"""Makes pruned models small: takes dead heads and neurons out, and records what is left."""

from hf_td.compaction.compact import (
    LAYOUT_KEY,
    can_compact,
    compact_model,
    cut_model,
    layout_of_model,
)
from hf_td.compaction.kept import needed_units
from hf_td.compaction.layout import CompactLayout, apply_layout

__all__ = [
    "LAYOUT_KEY",
    "CompactLayout",
    "apply_layout",
    "can_compact",
    "compact_model",
    "cut_model",
    "layout_of_model",
    "needed_units",
]
