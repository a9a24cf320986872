"""Takes removed heads, neurons and experts out of a model, and records what is left."""

from hf_td.compaction.compact import can_compact, compact_model, cut_model
from hf_td.compaction.kept import check_multiple, needed_units
from hf_td.compaction.layers import take_out_layers
from hf_td.modules.compact_layout import LAYOUT_KEY, layout_of_model
from hf_td.modules.compact_shapes import CompactLayout, apply_layout

__all__ = [
    "LAYOUT_KEY",
    "CompactLayout",
    "apply_layout",
    "can_compact",
    "check_multiple",
    "compact_model",
    "cut_model",
    "layout_of_model",
    "needed_units",
    "take_out_layers",
]
