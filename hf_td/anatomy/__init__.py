"""Reads a Transformer by its structure: where its units are, and in which layers they lie."""

from hf_td.anatomy.blocks import Anatomy, Block, Companion, Part, Projection, Role, layer_index
from hf_td.anatomy.layouts import Layout, layout_of, linear_layers
from hf_td.anatomy.reading import read_anatomy

__all__ = [
    "Anatomy",
    "Block",
    "Companion",
    "Layout",
    "Part",
    "Projection",
    "Role",
    "layer_index",
    "layout_of",
    "linear_layers",
    "read_anatomy",
]
