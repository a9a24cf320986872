"""Loads the public names of a package when they are first used."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def names_of_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose stub imports its names.

    Args:
        package: name of the package.
        file: its __init__.py; the stub is the .pyi beside it, and has `from .module import name`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: f".{node.module}" for node in imports for alias in node.names}
    names = sorted(modules)

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(modules[name], package), name)
        except ModuleNotFoundError as error:
            raise _explained(error, f"{package}.{name}") from error

    return load, lambda: names, names


def _explained(error: ModuleNotFoundError, what: str) -> ImportError:
    """Return an error that says what needs a package that is not installed."""
    if error.name is None or error.name.partition(".")[0] == "hf_td":
        return error
    return ImportError(
        f"{what} needs {error.name}, which is not installed. It comes with hf_td, except by "
        f"`pip install --no-deps`. Run `pip install {error.name}`, or install hf_td with its "
        "dependencies.",
        name=error.name,
    )
