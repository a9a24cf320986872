"""Reads a model: finds the units that can be taken out, and proves which features they own."""

from hf_td.anatomy.blocks import (
    Anatomy,
    Block,
    Companion,
    Holder,
    LayerStack,
    Mixture,
    Part,
    Projection,
    Role,
    features_on,
    layer_index,
)
from hf_td.anatomy.experts import eager_experts
from hf_td.anatomy.inputs import probe_inputs
from hf_td.anatomy.reading import read_anatomy
from hf_td.anatomy.registry import AttentionBlocks, FeedForwardBlocks, register_family
from hf_td.anatomy.stacks import ONE_LAYER, read_stacks, with_stacks
from hf_td.anatomy.trace import evaluating, in_own_type, seeded, tensors_in
from hf_td.modules.layouts import (
    Layout,
    Stack,
    find_layer,
    linear_layers,
    linear_layout,
    parameter_names,
    stacks_of,
)

__all__ = [
    "ONE_LAYER",
    "Anatomy",
    "AttentionBlocks",
    "Block",
    "Companion",
    "FeedForwardBlocks",
    "Holder",
    "LayerStack",
    "Layout",
    "Mixture",
    "Part",
    "Projection",
    "Role",
    "Stack",
    "eager_experts",
    "evaluating",
    "features_on",
    "find_layer",
    "in_own_type",
    "layer_index",
    "linear_layout",
    "linear_layers",
    "parameter_names",
    "probe_inputs",
    "read_anatomy",
    "read_stacks",
    "register_family",
    "seeded",
    "stacks_of",
    "tensors_in",
    "with_stacks",
]
