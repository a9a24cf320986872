"""The record of a compact model's layout in its config, and of routers without some experts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from hf_td.modules.compact_shapes import QUANT_METHOD, CompactLayout
from hf_td.modules.routing import mark_pruned, marked_routers

# The key under which a compact model's config keeps its layout.
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
    """Add what changed to the layout in the model's config, and the marked routers of now.

    What is saved then loads again after `import hf_td`, and not without it: the shapes do not fit.
    A model with marked routers has the stock shapes, and would load with all its experts. Its
    `save_pretrained` refuses until they are taken out. A model without a config keeps no record.
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
    """Make the routers of a loaded model leave out the experts that the layout calls pruned."""
    for name in layout.routers:
        mark_pruned(model.get_submodule(name))
    _guard_saving(model)


def _guard_saving(model: nn.Module) -> None:
    """Make a model, and the models in it, refuse to be saved while experts are only marked."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained"):
            module.__dict__.pop("save_pretrained", None)
            if marked_routers(module):
                module.__dict__["save_pretrained"] = partial(_save_unless_marked, module)


def _save_unless_marked(model: Any, *args: Any, **kwargs: Any) -> Any:
    marked = list(marked_routers(model))
    if marked:
        raise ValueError(
            f"experts of {marked[0]} are pruned, but not taken out. A checkpoint of the stock "
            "shapes cannot say that: the router would choose them again. Call "
            "compact_model(model) first, or write the model with export_model."
        )
    return type(model).save_pretrained(model, *args, **kwargs)
