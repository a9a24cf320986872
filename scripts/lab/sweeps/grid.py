"""Reads a sweep from its YAML file: which methods, on what, with which seeds and which knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from sklearn.model_selection import ParameterGrid

from hf_td.tasks.errors import UsageError

Values = Mapping[str, Any]
Part = Literal["grid", "knobs"]

_NOTHING: Values = MappingProxyType({})
_SECTIONS = ("title", "common", "tasks", "levels", "methods", "seeds", "knobs")
_KNOB_SECTIONS = ("tasks", "levels", "seeds", "methods")
# What a method has beside arguments: its name in tables, its seeds, and arguments for some places.
_OF_A_METHOD = ("label", "seeds", "tasks", "levels")
# Arguments that a sweep gives itself.
_OWN = ("seed", "seeds", "output_dir")


@dataclass(frozen=True)
class Place:
    """One place of the grid, with the arguments of `scripts/run_glue.py` that stand there.

    Attributes:
        part: `grid`, or `knobs` for the variants that show how easy a method is to tune.
        task: name of the task in the file.
        level: name of the level.
        method: name of the method.
        seed: of the run.
        knobs: the arguments that make the variant; empty in the grid.
        label: what tables call the method, where the file says it.
        arguments: all arguments but the seed and the output folder.
    """

    part: Part
    task: str
    level: str
    method: str
    seed: int
    knobs: Values
    label: str | None
    arguments: Values

    def __str__(self) -> str:
        """As progress and messages show it."""
        knobs = " ".join(f"{name}={value}" for name, value in self.knobs.items())
        return (
            f"{self.task} {self.level} {self.method}{f' [{knobs}]' * bool(knobs)} seed {self.seed}"
        )


@dataclass(frozen=True)
class Sweep:
    """What a file describes.

    Attributes:
        title: of the report.
        places: in the order in which they are to be run: every method with its first seed, then
            the knobs, then the second seeds, and so on.
    """

    title: str
    places: tuple[Place, ...]


def read_sweep(path: str | Path, changes: Values = _NOTHING) -> Sweep:
    """Read a sweep.

    The arguments of a place are those of `common`, of its task, its level and its method, of the
    method at the task, of the method at the level, and its knobs; the later ones count. None takes
    an argument away. `--method` is the name of the method where no argument says another.

    Args:
        path: of the YAML file.
        changes: to `common`, such as where the data are.

    Raises:
        UsageError: the file cannot be read, or is not what a sweep looks like.
    """
    found = _read(Path(path))
    _check_names("a sweep", found, _SECTIONS)
    for section in ("tasks", "levels", "methods"):
        _check_mapping(section, found.get(section))
        for name, arguments in found[section].items():
            _check_arguments(f"{name} of {section}", arguments)
    _check_arguments("common", found.get("common"))
    sweep = {**found, "common": {**(found.get("common") or {}), **changes}}
    places = [*_grid(sweep), *_knobs(sweep)]
    ranked = sorted(places, key=lambda place: (place[0], place[1].part == "knobs"))
    return Sweep(str(found.get("title", Path(path).stem)), tuple(place for _, place in ranked))


def selects(filters: Mapping[str, Sequence[str]], place: Place) -> bool:
    """Whether a place has one of the wanted values of each filter.

    Args:
        filters: for part, task, level, method or seed the wanted values.
        place: of the grid.
    """
    return all(str(getattr(place, name)) in wanted for name, wanted in filters.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"the sweep {path} cannot be read: {error}") from error
    _check_mapping(str(path), found)
    return found


def _grid(sweep: Values) -> Iterator[tuple[int, Place]]:
    """Each place with the rank of its seed among those of its method."""
    common = _seeds("the sweep", sweep, [0])
    for task, level, method in product(sweep["tasks"], sweep["levels"], sweep["methods"]):
        seeds = _seeds(method, sweep["methods"][method] or {}, common)
        yield from _places(sweep, "grid", task, level, method, seeds, {})


def _knobs(sweep: Values) -> Iterator[tuple[int, Place]]:
    section = sweep.get("knobs") or {}
    _check_arguments("knobs", section)
    _check_names("knobs", section, _KNOB_SECTIONS)
    tasks = section.get("tasks", list(sweep["tasks"]))
    levels = section.get("levels", list(sweep["levels"]))
    methods = section.get("methods") or {}
    for name, known in (("tasks", tasks), ("levels", levels), ("methods", methods)):
        _check_names(f"the {name} of knobs", known, sweep[name])
    seeds = _seeds("knobs", section, [0])
    for task, level, method in product(tasks, levels, methods):
        for variant in _variants(method, methods[method]):
            yield from _places(sweep, "knobs", task, level, method, seeds, variant)


def _seeds(what: str, section: Values, default: Sequence[int]) -> Sequence[int]:
    seeds = section.get("seeds", default)
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds):
        raise UsageError(f"the seeds of {what} must be a list such as [0, 1, 2], got {seeds!r}")
    return seeds


def _variants(method: str, grid: Any) -> Iterator[Values]:
    try:
        yield from ParameterGrid(grid)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the knobs of {method} are lists of values by argument, or several such mappings, as "
            f"scikit-learn's ParameterGrid takes them; got {grid!r}: {error}"
        ) from error


def _places(
    sweep: Values,
    part: Part,
    task: str,
    level: str,
    method: str,
    seeds: Sequence[int],
    knobs: Values,
) -> Iterator[tuple[int, Place]]:
    row = sweep["methods"][method] or {}
    own = {name: value for name, value in row.items() if name not in _OF_A_METHOD}
    at_task = _extra(sweep, row, "tasks", task, method)
    at_level = _extra(sweep, row, "levels", level, method)
    if at_task is None or at_level is None:
        return
    of_task, of_level = sweep["tasks"][task] or {}, sweep["levels"][level] or {}
    arguments = {**sweep["common"], **of_task, **of_level, "method": method}
    arguments |= {**own, **at_task, **at_level, **knobs}
    given = {name: value for name, value in arguments.items() if value is not None}
    for rank, seed in enumerate(seeds):
        place = Place(part, task, level, method, seed, knobs, row.get("label"), given)
        _check_own(place)
        yield rank, place


def _extra(sweep: Values, row: Values, section: str, name: str, method: str) -> Values | None:
    """What a method adds at a task or level; None where it is `false`: it is not run there."""
    extras = row.get(section) or {}
    what = f"the {section} of {method}"
    _check_arguments(what, extras)
    _check_names(what, extras, sweep[section])
    extra = extras.get(name)
    if extra is False:
        return None
    _check_arguments(f"{name} in {what}", extra)
    return extra or {}


def _check_mapping(what: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{what} must hold names with their arguments, got {value!r}")


def _check_arguments(what: str, value: Any) -> None:
    """As `_check_mapping`, but none are fine too."""
    if value not in (None, {}):
        _check_mapping(what, value)


def _check_own(place: Place) -> None:
    given = [name for name in _OWN if name in place.arguments]
    if given:
        raise UsageError(
            f"{place}: {given[0]} is no argument of a sweep, which has --output and, beside "
            "methods or in one of them, a list such as seeds: [0, 1, 2]"
        )


def _check_names(what: str, names: Any, known: Any) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"{what} has unknown names {unknown}; known are {list(known)}")
