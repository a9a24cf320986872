"""The generated modeling file, which loads a compact model where hf_td is not installed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from hf_td.files import write_text
from hf_td.hub.auto_classes import auto_classes
from hf_td.modules import compact_shapes

MODULE = "modeling_hf_td"
FILE = f"{MODULE}.py"


def make_stock_class(model: Any) -> None:
    """Give a model that a modeling file has loaded its stock class again, in place."""
    if type(model).__module__.rpartition(".")[2] == MODULE:
        model.__class__ = type(model).__base__


def write_modeling_file(model: Any, folder: Path) -> None:
    """Write the modeling file, and name it in the `auto_map` of the model's config.

    The file is the source of `hf_td.modules.compact_shapes`, and a class for the model with its
    head and one for the bare base model.
    """
    classes = {name: type(model).__name__ for name in auto_classes(model)}
    if type(model.base_model) is not type(model):
        classes["AutoModel"] = type(model.base_model).__name__
    stocks = sorted(set(classes.values()))
    parts = [
        inspect.getsource(compact_shapes).rstrip(),
        f"from transformers import {', '.join(stocks)}  # noqa: E402",
        *map(_definition, stocks),
    ]
    write_text(folder / FILE, "\n\n\n".join(parts) + "\n")
    model.config.auto_map = {name: f"{MODULE}.Compact{stock}" for name, stock in classes.items()}


def drop_modeling_file(config: Any) -> None:
    """Remove a modeling file from a config: `save_pretrained` of a stock class writes none."""
    named = getattr(config, "auto_map", None) or {}
    if any(str(place).startswith(f"{MODULE}.") for place in named.values()):
        del config.auto_map


def _definition(stock: str) -> str:
    return (
        f"class Compact{stock}({stock}):\n"
        f'    """`{stock}` in the shapes of its compact checkpoint."""\n\n'
        "    def __init__(self, config, *args, **kwargs):\n"
        "        super().__init__(config, *args, **kwargs)\n"
        "        make_compact(self)"
    )
