"""Records what was cut from a model, the routers that leave experts out, and passed layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import nn
from transformers.utils import CONFIG_NAME

from hf_td.files import read_json_object
from hf_td.modules.compact_saving import LAYOUT_KEY, attach_layout, layout_of_model
from hf_td.modules.compact_shapes import QUANT_METHODS, CompactLayout
from hf_td.modules.passing import mark_passed, passed_layers
from hf_td.modules.routing import mark_pruned, marked_routers

__all__ = ["LAYOUT_KEY", "layout_of_model", "mark_routers", "pass_as_saved", "record_layout"]


def record_layout(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    attributes: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> None:
    """Update the layout in a model's configs with changed shapes, attributes and marked modules.

    A checkpoint with a layout loads after `import hf_td`, or by the modeling file that
    `save_pretrained` writes. A model with marked routers has stock shapes, and its checkpoint would
    load with all experts. So its `save_pretrained` raises until the marked experts are taken out.
    Layers that are passed by are passed by again in the loaded model.
    A model without a config has no record, and parts of it with a config have theirs.

    Args:
        model: the compacted or pruned model.
        shapes: changed shapes of parameters, by dotted name.
        attributes: changed attributes of modules, by dotted name of the module.
    """
    known = layout_of_model(model) or CompactLayout()
    layout = known | CompactLayout(shapes=shapes, attributes=attributes)
    marked = {"routers": tuple(marked_routers(model)), "passed": tuple(passed_layers(model))}
    attach_layout(model, replace(layout, **marked))


def pass_as_saved(model: nn.Module, checkpoint: str | Path) -> None:
    """Pass by exactly the layers that a checkpoint passes by, after its weights were loaded.

    A checkpoint without a config, as of adapters, changes nothing.

    Args:
        model: the model that the checkpoint is of.
        checkpoint: its folder.
    """
    path = Path(checkpoint) / CONFIG_NAME
    if not path.is_file():
        return
    recorded = read_json_object(path).get(LAYOUT_KEY) or {}
    ours = recorded.get("quant_method") in QUANT_METHODS
    saved = set(CompactLayout.from_dict(recorded).passed) if ours else set()
    for name in saved ^ set(passed_layers(model)):
        mark_passed(model.get_submodule(name), name in saved)


def mark_routers(model: nn.Module, layout: CompactLayout) -> None:
    """Mark the routers of a layout in a loaded model: they leave out their pruned experts."""
    for name in layout.routers:
        mark_pruned(model.get_submodule(name))
