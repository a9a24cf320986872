"""The modeling file of a compact checkpoint, which loads it where hf_td is not installed.

The file is made of seven modules that import nothing else of hf_td. So it does what they do: it
registers the loader, and what it loads is saved with a copy of the file again.
"""

from __future__ import annotations

import ast
from pathlib import Path

MODULE = "modeling_hf_td"
FILE = f"{MODULE}.py"

_PIECES = (
    "saving.py",
    "classes.py",
    "passing.py",
    "compact_shapes.py",
    "compact_saving.py",
    "limits.py",
    "compact_loading.py",
)
_HEAD = f'''"""Loads this compact model in transformers, with no other package.

It was written by hf_td, and is used by `from_pretrained(..., trust_remote_code=True)`.
"""

from __future__ import annotations

from pathlib import Path

MODULE = "{MODULE}"
FILE = "{FILE}"
_SOURCE = Path(__file__).read_text(encoding="utf-8")


def loader_source() -> str:
    return _SOURCE


def write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


'''
_FOOT = "\n\n\nregister_where_missing()\n"


def loader_source() -> str:
    """Return the text of the modeling file."""
    folder = Path(__file__).parent
    pieces = [_alone((folder / name).read_text(encoding="utf-8")) for name in _PIECES]
    return _HEAD + "\n\n\n".join(pieces) + _FOOT


def _alone(source: str) -> str:
    """Return the source of a module without its docstring and its imports of hf_td."""
    docstring, *statements = ast.parse(source).body
    dropped = [docstring, *(node for node in statements if _is_dropped(node))]
    lines = source.splitlines()
    for node in dropped:
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = ""
    return "\n".join(lines).strip("\n")


def _is_dropped(node: ast.stmt) -> bool:
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    return module == "__future__" or module.startswith("hf_td.")
