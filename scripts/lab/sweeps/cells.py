"""Turn the places of a grid into cells: experiments of one seed each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_td.files import read_json_object
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.output import RESULTS
from hf_td.tasks.experiment.parsing import check_names
from hf_td.tasks.registry import TASKS
from lab.sweeps.grid import Place, Sweep
from lab.sweeps.naming import name_cell, parse_words, split_retired

# An argument that stands for the model of another cell, such as {method=none level=weight}.
_REFERENCE = re.compile(r"\{(.*)\}")
_KEYS = ("task", "level", "method", "seed")
# The program of each kind of task whose cells can be swept.
_PROGRAMS = {
    "glue": "run_glue.py",
    "text_classification": "run_classification.py",
    "language_modelling": "run_clm.py",
    "image_classification": "run_image_classification.py",
    "question_answering": "run_question_answering.py",
    "translation": "run_translation.py",
}


@dataclass(frozen=True)
class Cell:
    """One experiment of one seed, which may stand at several places of the grid.

    Attributes:
        kind: of the task, a key of `hf_td.tasks.registry.TASKS`.
        name: hash of the configuration and the seed, unique to the experiment.
        seed: of the run.
        arguments: of the program of the kind, without the seed and the output folder.
        models: the cells whose fine-tuned models are arguments, by the name of the argument.
        places: in the grid.
    """

    kind: str
    name: str
    seed: int
    arguments: Mapping[str, Any]
    models: Mapping[str, Cell]
    places: tuple[Place, ...]

    def argv(self, root: Path) -> list[str]:
        """Return the command line of the cell in a sweep whose folder is `root`."""
        paths = {name: cell.model(root) for name, cell in self.models.items()}
        own = {"seed": self.seed, "output_dir": self.folder(root)}
        return _words({**self.arguments, **paths, **own})

    def command(self, root: Path) -> str:
        """Return the command that runs the cell alone."""
        return shlex.join(["python", f"scripts/{_PROGRAMS[self.kind]}", *self.argv(root)])

    def folder(self, root: Path) -> Path:
        """Return the working folder of the cell."""
        return root / "cells" / self.name

    def model(self, root: Path) -> Path:
        """Return the path of the fine-tuned model, which is there only if it was kept."""
        return self.folder(root) / f"seed-{self.seed}"

    def has_model(self, root: Path) -> bool:
        """Return True if a finished fine-tuned model is there: while it is retrained, it is not."""
        return self.model(root).is_dir() and bool(recorded_runs(self.folder(root)))


def recorded_runs(folder: Path) -> list[Any] | None:
    """Return the runs that the folder of a cell records; None without a whole record."""
    try:
        runs = read_json_object(folder / RESULTS).get("runs")
    except (OSError, ValueError):
        return None
    return runs if isinstance(runs, list) else None


def plan_cells(sweep: Sweep) -> dict[str, Cell]:
    """Return the cells of a sweep by name, in the order of their places.

    Places with equal experiments share a cell. The arguments of all cells are parsed and checked,
    so a mistake in the file is found before anything runs.

    Raises:
        UsageError: an argument is unknown or wrong, or a reference names no place of the grid.
    """
    planner = _Planner(sweep)
    cells: dict[str, Cell] = {}
    for place in sweep.places:
        cell = planner.cell(place)
        known = cells.get(cell.name, cell)
        cells[cell.name] = replace(known, places=(*known.places, place))
    return cells


class _Planner:
    """The places of a sweep, and the references between them."""

    def __init__(self, sweep: Sweep) -> None:
        self._kind = sweep.kind
        self._places = {(_key(place), str(place.knobs)): place for place in sweep.places}

    def cell(self, place: Place, referring: tuple[Place, ...] = ()) -> Cell:
        """Return the cell of a place, after following its references.

        Args:
            place: of the sweep.
            referring: the places whose references led here.
        """
        if place in referring:
            raise UsageError(f"{place} refers to itself. Name another place of the grid.")
        models = {
            name: self._target(place, found.group(1), referring)
            for name, value in place.arguments.items()
            if isinstance(value, str) and (found := _REFERENCE.fullmatch(value))
        }
        arguments, retired = split_retired(place.arguments)
        kind = TASKS[self._kind]
        check_names(arguments, str(place), kind.data, training=kind.training)
        names = {name: f"cell-{cell.name}" for name, cell in models.items()}
        try:
            words = tuple(_words({**arguments, **names}))
            name = name_cell(words, place.seed, retired, self._kind)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error
        return Cell(self._kind, name, place.seed, place.arguments, models, ())

    def _target(self, place: Place, reference: str, referring: tuple[Place, ...]) -> Cell:
        """Return the cell that a reference at a place names."""
        parts = [word.partition("=") for word in reference.split()]
        pairs = {key: value for key, _, value in parts}
        wanted = {key: str(getattr(place, key)) for key in _KEYS} | pairs
        # The same variant of its own method; of another method, the one in the grid.
        knobs = place.knobs if wanted["method"] == place.method else {}
        target = self._places.get((tuple(wanted[key] for key in _KEYS), str(knobs)))
        if target is None or set(pairs) - set(_KEYS):
            raise UsageError(
                f"{place} refers to {{{reference}}}, which is no place of the grid. A reference "
                f"gives {', '.join(_KEYS)} of a place. Write it as in {{method=none level=weight}}."
            )
        words = tuple(_words(split_retired(target.arguments)[0]))
        if not parse_words(words, self._kind).trains:
            raise UsageError(
                f"{place} refers to {target}, which only measures and has no model. Refer to a "
                "place that trains."
            )
        return self.cell(target, (*referring, place))


def _key(place: Place) -> tuple[str, ...]:
    return tuple(str(getattr(place, key)) for key in _KEYS)


def _words(arguments: Mapping[str, Any]) -> list[str]:
    """Return a command line: a list becomes several words, a mapping several name=value."""
    words: list[str] = []
    for name, value in arguments.items():
        words += [f"--{name}", *_values(value)]
    return words


def _values(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={_single(name, item)}" for name, item in value.items()]
    if isinstance(value, list):
        return [word for item in value for word in _values(item)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _single(name: Any, value: Any) -> str:
    """Return the word of a value in a mapping."""
    words = _values(value)
    if len(words) != 1:
        raise UsageError(f"{name} must have one value here, as in name=value; got {value!r}")
    return words[0]
