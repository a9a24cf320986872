"""Reads a Transformer by its structure: where its units are, and in which layers they lie."""

from hf_td.anatomy.blocks import Anatomy, Block, Companion, Part, Projection, Role, layer_index
from hf_td.anatomy.inputs import probe_inputs
from hf_td.anatomy.layouts import Layout, layout_of, linear_layers
from hf_td.anatomy.reading import read_anatomy
from hf_td.anatomy.registry import AttentionBlocks, FeedForwardBlocks, register_family
from hf_td.anatomy.trace import evaluating, tensors_in

__all__ = [
    "Anatomy",
    "AttentionBlocks",
    "Block",
    "Companion",
    "FeedForwardBlocks",
    "Layout",
    "Part",
    "Projection",
    "Role",
    "evaluating",
    "layer_index",
    "layout_of",
    "linear_layers",
    "probe_inputs",
    "read_anatomy",
    "register_family",
    "tensors_in",
]
