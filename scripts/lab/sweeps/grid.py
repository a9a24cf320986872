"""Read a sweep from its YAML file: methods, tasks, levels, seeds and knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sklearn.model_selection import ParameterGrid

from hf_td.tasks.errors import UsageError
from hf_td.tasks.plain_values import read_values
from hf_td.tasks.registry import TASKS

Values = Mapping[str, Any]
Part = Literal["grid", "knobs"]

_NOTHING: Values = MappingProxyType({})
_SECTIONS = ("title", "kind", "common", "tasks", "levels", "methods", "seeds", "knobs")
_KNOB_SECTIONS = ("tasks", "levels", "seeds", "methods")
# Entries of a method that are no arguments: its name in tables, its seeds, its exceptions.
_NO_ARGUMENTS = ("label", "seeds", "tasks", "levels")
_MOST_PLACES = 100_000
# Arguments that a sweep sets itself.
_RESERVED = ("seed", "seeds", "output_dir")


@dataclass(frozen=True)
class Place:
    """One place of the grid, with its arguments of the script of the sweep.

    Attributes:
        part: `grid`, or `knobs` for variants that show how easy a method is to tune.
        task: name of the task in the file.
        level: name of the level in the file.
        method: name of the method in the file.
        seed: of the run.
        knobs: arguments that make the variant; empty in the grid.
        label: the name of the method in tables, if the file gives one.
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
        """Return the place as progress and messages show it."""
        return f"{self.task} {self.level} {title_of(self.method, self.knobs)} seed {self.seed}"


@dataclass(frozen=True)
class Sweep:
    """The contents of a file.

    Attributes:
        title: of the report.
        kind: of the tasks, a key of `hf_td.tasks.registry.TASKS`.
        places: in the order in which to run them: every method with its first seed, then the
            knobs, then the second seeds, and so on.
    """

    title: str
    kind: str
    places: tuple[Place, ...]


def read_sweep(path: str | Path, changes: Values = _NOTHING) -> Sweep:
    """Read a sweep.

    The arguments of a place are those of `common`, of its task, its level and its method, of the
    method at the task, of the method at the level, and its knobs. Later ones replace earlier ones,
    and null removes an argument. `--method` is the name of the method, unless an argument gives
    another.

    Args:
        path: of the YAML file.
        changes: to `common`, such as the place of the data.

    Raises:
        UsageError: the file cannot be read, or does not describe a sweep.
    """
    found = _read(Path(path))
    _check_names("a sweep", found, _SECTIONS)
    for section in ("tasks", "levels", "methods"):
        _check_mapping(section, found.get(section))
        for name, arguments in found[section].items():
            _check_arguments(f"{name} of {section}", arguments)
    _check_labels(found["methods"])
    _check_arguments("common", found.get("common"))
    sweep = {**found, "common": {**(found.get("common") or {}), **changes}}
    places = [*_grid(sweep), *_knobs(sweep)]
    ranked = sorted(places, key=lambda place: (place[0], place[1].part == "knobs"))
    return Sweep(
        str(found.get("title", Path(path).stem)),
        _kind(found),
        tuple(place for _, place in ranked),
    )


def selects(filters: Mapping[str, Sequence[str]], place: Place) -> bool:
    """Return True if a place has one of the chosen values of each filter.

    Args:
        filters: the chosen values of part, task, level, method or seed.
        place: of the grid.
    """
    return all(str(getattr(place, name)) in chosen for name, chosen in filters.items())


def title_of(method: str, knobs: Values) -> str:
    """Return a method and its knobs as messages show them."""
    shown = " ".join(f"{name}={value}" for name, value in knobs.items())
    return f"{method}{f' [{shown}]' * bool(shown)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_values(path)
    except UsageError as error:
        raise UsageError(f"the sweep {path} cannot be read: {error}") from error
    _check_mapping(str(path), found)
    return found


def _kind(found: Values) -> str:
    kind = found.get("kind", "glue")
    if kind not in TASKS:
        raise UsageError(f"the kind of a sweep is one of {list(TASKS)}, got {kind!r}")
    return kind


def _grid(sweep: Values) -> Iterator[tuple[int, Place]]:
    """Yield each place, after the rank of its seed among those of its method."""
    sizes = [len(sweep[section]) for section in ("tasks", "levels", "methods")]
    _check_places(prod(sizes))
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


def _check_places(count: int) -> None:
    if count > _MOST_PLACES:
        raise UsageError(f"a sweep has at most {_MOST_PLACES} places of a kind, got {count}")


def _seeds(what: str, section: Values, default: Sequence[int]) -> Sequence[int]:
    seeds = section.get("seeds", default)
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds):
        raise UsageError(f"the seeds of {what} must be a list such as [0, 1, 2], got {seeds!r}")
    return seeds


def _variants(method: str, grid: Any) -> Iterator[Values]:
    try:
        variants = ParameterGrid(grid)
        _check_places(len(variants))
        yield from variants
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the knobs of {method} must be lists of values by argument, or several such "
            f"mappings, as scikit-learn's ParameterGrid takes them; got {grid!r}: {error}"
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
    own = {name: value for name, value in row.items() if name not in _NO_ARGUMENTS}
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
    """Return the exceptions of a method at a task or level, or None if it is not run there."""
    extras = row.get(section) or {}
    what = f"the {section} of {method}"
    _check_arguments(what, extras)
    _check_names(what, extras, sweep[section])
    extra = extras.get(name)
    if extra is False:
        return None
    _check_arguments(f"{name} in {what}", extra)
    return extra or {}


def _check_labels(methods: Values) -> None:
    """Raise UsageError for two methods of one label: their curves would be one in the report."""
    labels = [label for row in methods.values() if (label := (row or {}).get("label"))]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UsageError(f"two methods have the label {twice[0]!r}. Give each a label of its own.")


def _check_mapping(what: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{what} must hold names with their arguments, got {value!r}")


def _check_arguments(what: str, value: Any) -> None:
    """Raise UsageError unless `value` is empty or holds names with their arguments."""
    if value not in (None, {}):
        _check_mapping(what, value)


def _check_own(place: Place) -> None:
    given = [name for name in _RESERVED if name in place.arguments]
    if given:
        raise UsageError(
            f"{place}: {given[0]} is no argument of a sweep. A sweep sets it for every cell. Give "
            "--output, and a list such as seeds: [0, 1, 2] next to methods or in one of them."
        )


def _check_names(what: str, names: Any, known: Any) -> None:
    if not isinstance(names, list | dict):
        raise UsageError(f"{what} must be a list of names of {list(known)}, got {names!r}")
    unknown = [name for name in names if name not in list(known)]
    if unknown:
        raise UsageError(f"{what} has unknown names {unknown}; known are {list(known)}")
