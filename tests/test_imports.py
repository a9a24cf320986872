"""Imports run one way, and importing the package is cheap."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_td

PACKAGE = Path(hf_td.__file__).parent

# A room imports from those above it in this list, and from itself. A new room is a new entry.
ROOMS = [
    "_names",
    "_register",
    "extras",
    "drafts",
    "files",
    "tensor_files",
    "functional",
    "kernels",
    "schedules",
    "recipes",
    "config",
    "modules",
    "anatomy",
    "ranking",
    "patching",
    "pruning",
    "training",
    "analysis",
    "report",
    "compaction",
    "vocabulary",
    "hub",
    "wishes",
    "baselines",
    "tasks",
    "cli",
    "__main__",
]
# Rooms that stand alone: they import no other room, and only these may import them.
ALONE: dict[str, set[str]] = {}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """Return the part after `hf_td`, or None for the package itself and other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "hf_td" and len(parts) > 1 else None


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, path)
            yield from (f"{base}.{a.name}" if base == "hf_td" else base for a in node.names)


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """Return the module that is imported from; leading dots are resolved."""
    parents = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
    return ".".join([*parents, *([node.module] if node.module else [])])


def rooms_imported_by(path: Path) -> set[str]:
    rooms = {room_of(module) for module in imported_by(path)}
    return {room for room in rooms if room is not None} - {room_of(name_of(path))}


def is_below(room: str, other: str) -> bool:
    if other in ALONE:
        return room in ALONE[other]
    return room not in ALONE and ROOMS.index(other) < ROOMS.index(room)


@pytest.mark.parametrize("path", FILES, ids=map(name_of, FILES))
def test_imports_run_one_way(path):
    room = room_of(name_of(path))
    if room is None:
        return  # the package loads each public name when it is first used
    assert room in {*ROOMS, *ALONE}
    names = {other for other in rooms_imported_by(path) if is_a_room(other)}
    assert not {other for other in names if not is_below(room, other)}


def is_a_room(room: str) -> bool:
    """Return False for a public name: `from hf_td import x` may mean one."""
    return (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()


HELP = """
import contextlib, sys
from hf_td.cli import main
sys.argv = ["hf-td", "--help"]
with contextlib.suppress(SystemExit):
    main()
"""


def loaded_after(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import hf_td", {"torch", "transformers", "numpy", "rich"}),
        ("from hf_td import Schedule, TargetedDropoutConfig", {"torch", "transformers"}),
        ("import hf_td.functional", {"transformers", "rich"}),
        (HELP, {"torch", "transformers", "numpy"}),
    ],
)
def test_importing_loads_no_more_than_it_needs(statement, absent):
    assert not loaded_after(statement) & absent


def test_help_takes_little_time():
    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        loaded_after(HELP)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", hf_td.__all__)
def test_every_public_name_is_there(name):
    found = getattr(hf_td, name)
    assert found.__name__ == name
    assert found.__module__.startswith("hf_td.")
    assert found.__doc__
    assert name in dir(hf_td)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="'hf_td' has no attribute 'nonsense'"):
        _ = hf_td.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_type_checkers_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    aliases = [a for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert all(alias.asname == alias.name for alias in aliases)  # else a name counts as private
    assert sorted(alias.name for alias in aliases) == hf_td.__all__
