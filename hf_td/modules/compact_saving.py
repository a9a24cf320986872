"""Keeps the layout of a compact model in its config, and saves it with the file that loads it.

A model can have parts with configs of their own, such as the towers of CLIP. Each of these configs
has the layout of its part, so that each part loads from the checkpoint of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any

from torch import nn

from hf_td.files import write_text
from hf_td.modules.compact_file import FILE, MODULE, loader_source
from hf_td.modules.compact_shapes import QUANT_METHODS, CompactLayout
from hf_td.modules.saving import is_pretrained, save_with

# The key of the layout in a compact model's config.
LAYOUT_KEY = "quantization_config"
# With `trust_remote_code` transformers imports the module of this class, which then registers the
# loader.
AUTO_MAP = {"AutoConfig": f"{MODULE}.CompactModelConfig"}


class LayoutDict(dict[str, Any]):
    """A layout in the place of a quantization config, which programs read in both ways.

    Attributes:
        quant_method: None: the weights are not quantized.
    """

    quant_method = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as a quantization config does."""
        return dict(self)


def layout_of_config(config: Any) -> CompactLayout | None:
    """Return the layout that a config records; None for that of a model that is not compact."""
    recorded = getattr(config, LAYOUT_KEY, None)
    ours = isinstance(recorded, dict) and recorded.get("quant_method") in QUANT_METHODS
    return CompactLayout.from_dict(recorded) if ours else None


def layout_of_model(model: nn.Module) -> CompactLayout | None:
    """Return the layout that a model's configs record; None for a model that is not compact.

    A model that was built from compact models has the layouts of these.
    """
    own = layout_of_config(getattr(model, "config", None))
    return layout_of_parts(model) if own is None else own


def layout_of_parts(model: nn.Module) -> CompactLayout | None:
    """Return what the configs of a model's parts record, without that of the model itself."""
    found = {path: layout_of_config(part.config) for path, part in parts_of(model)}
    layouts = [layout.placed(path) for path, layout in found.items() if layout is not None]
    return reduce(or_, layouts) if layouts else None


def parts_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name and the module of each part that has a config of its own."""
    known = {id(getattr(model, "config", None))}
    for name, module in model.named_modules():
        if is_pretrained(module) and id(module.config) not in known:
            known.add(id(module.config))
            yield name, module


def attach_layout(model: nn.Module, layout: CompactLayout) -> None:
    """Write a layout into the configs of a model and of its parts; remove it where it is empty.

    From then on `save_pretrained` of each of them writes the file that loads it.
    """
    parts = dict(parts_of(model))
    own: Any = getattr(model, "config", None)
    if own is not None:
        kinds = {part.config.model_type: path for path, part in reversed(parts.items())}
        kinds.pop(own.model_type, None)
        layout = replace(layout, parts=kinds)
        _set_layout(own, layout)
    for path, part in parts.items():
        _set_layout(part.config, layout.under(path))
    for path, module in model.named_modules():
        if is_pretrained(module):
            own = layout.under(path) if path else layout
            save_with(module, FILE, partial(saving_layout, own) if own else None)


def _set_layout(config: Any, layout: CompactLayout) -> None:
    if layout:
        setattr(config, LAYOUT_KEY, LayoutDict(layout.to_dict()))
    elif layout_of_config(config) is not None:
        delattr(config, LAYOUT_KEY)


@contextmanager
def saving_layout(layout: CompactLayout, model: Any, folder: Path) -> Iterator[None]:
    """Save a layout in the config of a model, and write the file that loads it without hf_td.

    Args:
        layout: of this model, by its own names; a part of a model can share the config of the
            whole.
        model: a model that is saved meanwhile.
        folder: where it is saved.

    Raises:
        ValueError: experts are pruned, but not taken out. A stock router would choose them again.
    """
    if layout.routers:
        raise ValueError(
            f"experts of {layout.routers[0]} are pruned, but not taken out. In a checkpoint with "
            "stock shapes the router would choose them again. Call compact_model(model) first, or "
            "write the model with export_model"
        )
    config = model.config
    if layout_of_config(config) is None or not _is_stock(model):
        yield
        return
    before = dict(config.__dict__)
    try:
        config.auto_map = AUTO_MAP
        _set_layout(config, layout)
        yield
    finally:
        setattr(config, LAYOUT_KEY, before[LAYOUT_KEY])
        config.__dict__.pop("auto_map")
        if "auto_map" in before:
            config.auto_map = before["auto_map"]
    write_text(folder / FILE, loader_source())


def _is_stock(model: Any) -> bool:
    """Return False for a model whose own code is not a part of transformers."""
    return all(type(one).__module__.startswith("transformers.") for one in (model, model.config))


def forget_file(config: Any) -> None:
    """Remove the entries of a modeling file from a config; saving adds them again."""
    named = getattr(config, "auto_map", None) or {}
    others = {
        name: place
        for name, place in named.items()
        if not str(place).rpartition("--")[2].startswith(f"{MODULE}.")
    }
    if others != named:
        config.auto_map = others
        if not others:
            del config.auto_map
