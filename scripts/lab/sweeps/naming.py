"""Name cells by their experiments, in a way that outlives changes of defaults and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any

from hf_td.config import TargetedDropoutConfig
from hf_td.schedules import Schedule
from hf_td.tasks.data.splits import shown_name
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.checks import check_values
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.registry import TASKS

# Arguments of settings as the recipes had them when cells were first named. One that has been
# retired since keeps its place in the hash: with the value in the sweep, or else with this one.
RETIRED: dict[str, dict[str, float]] = {
    "weight": {"resting": 0.5, "targeting_sampled": 0.0, "targeting_off": 0.15},
    "unit": {"resting": 0.0, "targeting_sampled": 0.2, "targeting_off": 0.15},
}
# Settings, and fields of schedules, that are hashed even where they have their defaults. Others,
# such as a later version adds, are hashed where they differ from their defaults.
_ALWAYS = frozenset(
    {"targeting", "targeting_schedule", "drop_rate", "drop_rate_schedule", "importance", "resting"}
)
_ALWAYS_OF_SCHEDULES = frozenset({"shape", "initial", "begin", "end", "sampled", "off"})
# Settings that a method without annealing ignores.
_OF_ANNEALING = frozenset({"targeting_schedule", "drop_rate", "drop_rate_schedule", "resting"})
# Arguments that may differ between machines; each line of results records them.
_OF_MACHINES = frozenset({"bf16", "fp16", "tf32", "use_cpu"})
# Sparsities that were the default when cells were first named, so they are in no hash.
_SPARSITIES = [0, 0.5, 0.75, 0.9]
_RATES = ("targeting", "drop_rate")
_SCHEDULES = {f"{rate}_{field.name}" for rate in _RATES for field in fields(Schedule)}
_SETTINGS = frozenset({field.name for field in fields(TargetedDropoutConfig)} | _SCHEDULES)


def split_retired(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the arguments that still exist, and the values of those that have been retired."""
    retired = {name for level in RETIRED.values() for name in level} - _SETTINGS
    current = {name: value for name, value in arguments.items() if name not in retired}
    return current, {name: float(arguments[name]) for name in arguments if name in retired}


@cache
def parse_words(words: tuple[str, ...], kind: str = "glue") -> Arguments:
    """Parse and check the command line of a cell of a kind of task.

    Raises:
        UsageError: an argument is unknown or wrong.
    """
    arguments = TASKS[kind].parse([*words, "--output_dir", "unused"])
    check_values(arguments)
    return arguments


def name_cell(
    words: tuple[str, ...], seed: int, retired: Mapping[str, float], kind: str = "glue"
) -> str:
    """Return a hash of the experiment that a command line and a seed describe.

    Left out are the place of the data, what only machines differ in, and settings that the method
    ignores. Settings are hashed in full, so a default that is spelled out gives the same name.

    Args:
        words: the command line, without the seed and the output folder.
        seed: of the run.
        retired: values of retired arguments, from `split_retired`.
        kind: of the task, a key of `hf_td.tasks.registry.TASKS`.

    Raises:
        UsageError: an argument is unknown or wrong.
    """
    experiment = [_experiment(words, tuple(sorted(retired.items())), kind), seed]
    # Cells were first named when all were of one kind.
    experiment += [kind] * (kind != "glue")
    return hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _experiment(
    words: tuple[str, ...], retired: tuple[tuple[str, float], ...], kind: str
) -> dict[str, Any]:
    parsed = parse_words(words, kind)
    found = json.loads(json.dumps(parsed.configuration()))
    settings = _settings(found["targeted_dropout"], parsed.training.level, dict(retired))
    ignored = _ignored_settings(parsed)
    return {
        "arguments": _arguments(found["arguments"], parsed),
        "targeted_dropout": {n: v for n, v in settings.items() if n not in ignored},
    }


def _arguments(arguments: Mapping[str, Any], parsed: Arguments) -> dict[str, Any]:
    """Return the arguments that are no settings of targeted dropout."""
    settings = {field.name for field in fields(TargetedDropoutConfig)}
    method, level = METHODS[parsed.curve.method], parsed.training.level
    if method.settings(level, parsed.method_settings) == method.settings(level, {}):
        settings.add("method_settings")
    found = {
        name: value
        for name, value in arguments.items()
        if name not in _OF_MACHINES | settings and not name.startswith(("targeting_", "drop_rate_"))
    }
    if found.get("sparsities") == _SPARSITIES:
        del found["sparsities"]
    if "dataset_name" in found:
        found["dataset_name"] = shown_name(found["dataset_name"])
    return found


def _settings(
    settings: Mapping[str, Any], level: Any, retired: Mapping[str, float]
) -> dict[str, Any]:
    """Return the settings with those that have been retired, without defaults of later ones."""
    old = {**RETIRED[level], **retired}
    defaults = {**TargetedDropoutConfig(level=level).to_dict(), "level": "weight"}
    found = {"resting": old["resting"], **settings}
    for rate in _RATES:
        found[f"{rate}_schedule"] = _schedule(rate, found[f"{rate}_schedule"], old)
    return {n: v for n, v in found.items() if n in _ALWAYS or v != defaults.get(n)}


def _schedule(rate: str, schedule: Mapping[str, Any], old: Mapping[str, float]) -> dict[str, Any]:
    """Return a schedule with its retired fields, without defaults of later ones."""
    retired = {name: old.get(f"{rate}_{name}", 0.0) for name in ("sampled", "off")}
    plain = asdict(Schedule())
    later = {n for n, v in schedule.items() if n not in _ALWAYS_OF_SCHEDULES and v == plain[n]}
    return {n: v for n, v in {**retired, **schedule}.items() if n not in later}


def _ignored_settings(arguments: Arguments) -> frozenset[str]:
    """Return the settings of targeted dropout that the method ignores."""
    method = METHODS[arguments.curve.method]
    if method.targets:
        return frozenset()
    own = method.settings(arguments.training.level, arguments.method_settings) or {}
    # The targeting is the default of their sparsity, where methods have one.
    return _OF_ANNEALING if "sparsity" in own else _OF_ANNEALING | {"targeting"}
