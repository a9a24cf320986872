"""The generated modeling file: loads a compact model where hf_td is not installed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from transformers.models.auto import modeling_auto

MODULE = "modeling_hf_td"


def auto_classes(model: Any) -> list[str]:
    """The `AutoModel...` classes that give the class of this model for its config."""
    names = [name for name in vars(modeling_auto) if name.startswith("AutoModel")]
    return [name for name in names if type(model) in _classes_of(name, model)]


def _classes_of(name: str, model: Any) -> tuple[Any, ...]:
    mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
    if mapping is None or type(model.config) not in mapping:
        return ()
    found = mapping[type(model.config)]
    return found if isinstance(found, tuple) else (found,)


def make_stock_class(model: Any) -> None:
    """Give a model that our modeling file has loaded its stock class again."""
    if type(model).__module__.rpartition(".")[2] == MODULE:
        model.__class__ = type(model).__base__


def write_modeling_file(model: Any, folder: Path) -> None:
    """Write the modeling file, and name it in the `auto_map` of the model's config."""
    classes = {name: type(model).__name__ for name in auto_classes(model)}
    if type(model.base_model) is not type(model):
        classes["AutoModel"] = type(model.base_model).__name__
    text = files("hf_td.hub").joinpath(f"{MODULE}.template").read_text(encoding="utf-8")
    stocks = sorted(set(classes.values()))
    definitions = "\n\n\n".join(_definition(stock) for stock in stocks)
    code = Template(text).substitute(imports=", ".join(stocks), classes=definitions)
    (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
    model.config.auto_map = {name: f"{MODULE}.Compact{stock}" for name, stock in classes.items()}


def _definition(stock: str) -> str:
    return (
        f"class Compact{stock}({stock}):\n"
        f'    """`{stock}` in the shapes of its compact checkpoint."""\n\n'
        "    def __init__(self, config, *args, **kwargs):\n"
        "        super().__init__(config, *args, **kwargs)\n"
        "        make_compact(self)"
    )
