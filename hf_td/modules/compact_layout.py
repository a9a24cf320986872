"""The layout of a compact model in its config, with the routers that leave experts out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from hf_td.modules.compact_shapes import QUANT_METHOD, CompactLayout
from hf_td.modules.routing import mark_pruned, marked_routers

# The key of the layout in a compact model's config.
LAYOUT_KEY = "quantization_config"


def layout_of_model(model: nn.Module) -> CompactLayout | None:
    """Return the layout that a model's config records; None for a model that is not compact."""
    recorded = getattr(getattr(model, "config", None), LAYOUT_KEY, None)
    ours = isinstance(recorded, dict) and recorded.get("quant_method") == QUANT_METHOD
    return CompactLayout.from_dict(recorded) if ours else None


def record_layout(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    attributes: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> None:
    """Update the layout in a model's config with changed shapes, attributes and marked routers.

    A checkpoint with a layout loads after `import hf_td`. Without it, loading fails on the shapes.
    A model with marked routers has stock shapes, and its checkpoint would load with all experts. So
    its `save_pretrained` raises until the marked experts are taken out. A model without a config
    has no record.

    Args:
        model: the compacted or pruned model.
        shapes: changed shapes of parameters, by dotted name.
        attributes: changed attributes of modules, by dotted name of the module.
    """
    _guard_saving(model)
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    known = layout_of_model(model) or CompactLayout(shapes={}, attributes={})
    layout = CompactLayout(
        shapes={**known.shapes, **shapes},
        attributes={**known.attributes, **attributes},
        routers=tuple(marked_routers(model)),
    )
    if layout != CompactLayout(shapes={}, attributes={}):
        setattr(config, LAYOUT_KEY, layout.to_dict())
    elif layout_of_model(model) is not None:
        delattr(config, LAYOUT_KEY)


def mark_routers(model: nn.Module, layout: CompactLayout) -> None:
    """Mark the routers of a layout in a loaded model: they leave out their pruned experts."""
    for name in layout.routers:
        mark_pruned(model.get_submodule(name))
    _guard_saving(model)


def _guard_saving(model: nn.Module) -> None:
    """Make `save_pretrained` raise for a model, and the models in it, while routers are marked."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained"):
            module.__dict__.pop("save_pretrained", None)
            if marked_routers(module):
                module.__dict__["save_pretrained"] = partial(_save_unless_marked, module)


def _save_unless_marked(model: Any, *args: Any, **kwargs: Any) -> Any:
    marked = list(marked_routers(model))
    if marked:
        raise ValueError(
            f"experts of {marked[0]} are pruned, but not taken out. In a checkpoint with stock "
            "shapes the router would choose them again. Call compact_model(model) first, or write "
            "the model with export_model"
        )
    return type(model).save_pretrained(model, *args, **kwargs)
