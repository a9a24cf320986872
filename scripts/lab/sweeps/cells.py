"""A cell is one experiment of one seed; its name is a hash of its full configuration."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from hf_td.config import TargetedDropoutConfig
from hf_td.tasks.data.splits import shown_name
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.checks import check_values
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.output import RESULTS
from hf_td.tasks.experiment.parsing import check_names, parse_arguments
from hf_td.tasks.text_classification.task import TextClassificationArguments
from lab.sweeps.grid import Place, Sweep

# An argument that stands for the model of another cell, such as {method=none level=weight}.
_REFERENCE = re.compile(r"\{(.*)\}")
_KEYS = ("task", "level", "method", "seed")

# How an experiment is computed, which machines differ in; each line records what it was.
_HOW = frozenset({"bf16", "fp16", "tf32", "use_cpu"})
# Settings that only a method that anneals looks at.
_OF_ANNEALING = frozenset({"targeting_schedule", "drop_rate", "drop_rate_schedule", "resting"})


@dataclass(frozen=True)
class Cell:
    """One experiment of one seed, which may stand at several places of the grid.

    Attributes:
        name: hash of the configuration and the seed; no other experiment has it.
        seed: of the run.
        arguments: of `scripts/run_glue.py`, without the seed and the output folder.
        models: by the name of an argument, the cell whose fine-tuned model it is.
        places: where it stands.
    """

    name: str
    seed: int
    arguments: Mapping[str, Any]
    models: Mapping[str, Cell]
    places: tuple[Place, ...]

    def argv(self, root: Path) -> list[str]:
        """Its command line, with the folder of the sweep."""
        paths = {name: cell.model(root) for name, cell in self.models.items()}
        own = {"seed": self.seed, "output_dir": self.folder(root)}
        return _words({**self.arguments, **paths, **own})

    def command(self, root: Path) -> str:
        """The command that runs it alone."""
        return shlex.join(["python", "scripts/run_glue.py", *self.argv(root)])

    def folder(self, root: Path) -> Path:
        """Where it works."""
        return root / "cells" / self.name

    def model(self, root: Path) -> Path:
        """Where its fine-tuned model is, if that is kept."""
        return self.folder(root) / f"seed-{self.seed}"

    def has_model(self, root: Path) -> bool:
        """Whether its fine-tuned model is there; not while it is being trained again."""
        record = self.folder(root) / RESULTS
        return (
            self.model(root).is_dir()
            and record.is_file()
            and bool(json.loads(record.read_text(encoding="utf-8"))["runs"])
        )


def plan_cells(sweep: Sweep) -> dict[str, Cell]:
    """The cells of a sweep by name, in the order of its places; equal experiments are one cell.

    Every cell's arguments are parsed and checked here, so that a mistake in the file is found
    before anything runs.

    Raises:
        UsageError: an argument is unknown or wrong, or a reference leads nowhere.
    """
    planner = _Planner(sweep)
    cells: dict[str, Cell] = {}
    for place in sweep.places:
        cell = planner.cell(place)
        known = cells.get(cell.name, cell)
        cells[cell.name] = replace(known, places=(*known.places, place))
    return cells


class _Planner:
    """Follows the references between the places of a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._places = {(_key(place), str(place.knobs)): place for place in sweep.places}

    def cell(self, place: Place, referring: tuple[Place, ...] = ()) -> Cell:
        if place in referring:
            raise UsageError(f"{place} refers to itself")
        models = {
            name: self._target(place, found.group(1), referring)
            for name, value in place.arguments.items()
            if isinstance(value, str) and (found := _REFERENCE.fullmatch(value))
        }
        names = {name: f"cell-{cell.name}" for name, cell in models.items()}
        words = tuple(_words({**place.arguments, **names}))
        check_names(place.arguments, str(place), TextClassificationArguments)
        try:
            identity = [_identity(words), place.seed]
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return Cell(name, place.seed, place.arguments, models, ())

    def _target(self, place: Place, reference: str, referring: tuple[Place, ...]) -> Cell:
        words = [word.partition("=") for word in reference.split()]
        pairs = {key: value for key, _, value in words}
        wanted = {key: str(getattr(place, key)) for key in _KEYS} | pairs
        # Its own method has the same variant; of another method it means what is in the grid.
        knobs = place.knobs if wanted["method"] == place.method else {}
        target = self._places.get((tuple(wanted[key] for key in _KEYS), str(knobs)))
        if target is None or set(pairs) - set(_KEYS):
            raise UsageError(
                f"{place} refers to {{{reference}}}, which is no place of the grid; name "
                f"{', '.join(_KEYS)} of one, as in {{method=none level=weight}}"
            )
        if not _parsed(tuple(_words(target.arguments))).trains:
            raise UsageError(f"{place} refers to {target}, which only measures and has no model")
        return self.cell(target, (*referring, place))


def _key(place: Place) -> tuple[str, ...]:
    return tuple(str(getattr(place, key)) for key in _KEYS)


@cache
def _parsed(words: tuple[str, ...]) -> Arguments:
    arguments = parse_arguments([*words, "--output_dir", "unused"], TextClassificationArguments)
    check_values(arguments)
    return arguments


@cache
def _identity(words: tuple[str, ...]) -> dict[str, Any]:
    """The configuration without what says nothing: defaults, where the data lie, the machine."""
    parsed = _parsed(words)
    found = json.loads(json.dumps(parsed.configuration()))
    arguments, settings = found["arguments"], found["targeted_dropout"]
    idle = _idle_settings(parsed)
    if _has_default_settings(parsed):
        arguments.pop("method_settings", None)
    if "dataset_name" in arguments:
        arguments["dataset_name"] = shown_name(arguments["dataset_name"])
    # A setting that a later version adds, with a default, does not make other experiments of all.
    defaults = json.loads(json.dumps({f.name: f.default for f in fields(TargetedDropoutConfig)}))
    return {
        "arguments": {
            n: v for n, v in arguments.items() if n not in _HOW and not _is_a_setting(n, defaults)
        },
        "targeted_dropout": {
            n: v for n, v in settings.items() if n not in idle and v != defaults.get(n)
        },
    }


def _has_default_settings(arguments: Arguments) -> bool:
    """Whether the method's own settings are those that it has when none are given."""
    method, level = METHODS[arguments.curve.method], arguments.training.level
    return method.settings(level, arguments.method_settings) == method.settings(level, {})


def _idle_settings(arguments: Arguments) -> frozenset[str]:
    """The settings of targeted dropout that the method does not look at."""
    method = METHODS[arguments.curve.method]
    if method.targets:
        return frozenset()
    own = method.settings(arguments.training.level, arguments.method_settings) or {}
    # The targeting is the default of their sparsity, where methods have one.
    return _OF_ANNEALING if "sparsity" in own else _OF_ANNEALING | {"targeting"}


def _is_a_setting(argument: str, settings: Mapping[str, Any]) -> bool:
    """Whether an argument is one of the settings, which say all of it, or a part of a schedule."""
    return argument in settings or argument.startswith(("targeting_", "drop_rate_"))


def _words(arguments: Mapping[str, Any]) -> list[str]:
    """A command line: a list becomes several words, a mapping several name=value."""
    words: list[str] = []
    for name, value in arguments.items():
        words += [f"--{name}", *_values(value)]
    return words


def _values(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={_values(item)[0]}" for name, item in value.items()]
    if isinstance(value, list):
        return [word for item in value for word in _values(item)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]
