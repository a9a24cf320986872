"""Keeps, continues or refuses the results of an earlier call in the output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_td.config import TargetedDropoutConfig
from hf_td.files import read_json_object
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.checkpoints import newest_whole, remove_checkpoints, remove_torn
from hf_td.tasks.experiment.checks import names_a_folder
from hf_td.tasks.progress import say

RESULTS = "results.json"
EXPORT = "export"
ASKED = "export.asked.json"  # next to an export: the arguments that it was made for
PAGE = "report.html"
DENSE_TRAINING = "dense-training"  # folder of the checkpoints of the dense stage


def print_once(training: TrainingArguments, line: str) -> None:
    """Print a line in one process of distributed training."""
    if training.should_save:
        say(line)


def seed_folder(arguments: Arguments, seed: int) -> Path:
    """Return the folder of the model and the checkpoints of a seed."""
    return Path(str(arguments.training.output_dir)) / f"seed-{seed}"


def finished_runs(arguments: Arguments, data: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the runs that an earlier call of the same experiment finished.

    With `--overwrite_output` there are none.

    Args:
        arguments: arguments of the experiment.
        data: fingerprints of its local data and models.

    Raises:
        UsageError: the folder has another experiment, or other files.
    """
    folder = Path(str(arguments.training.output_dir))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir {folder} is not a folder. Give another --output_dir.")
    if arguments.curve.overwrite_output:
        return []
    if (folder / RESULTS).is_file():
        return _continue(arguments, data, folder / RESULTS)
    resuming = str(arguments.training.resume_from_checkpoint).lower() not in ("none", "", "false")
    if folder.is_dir() and any(folder.iterdir()) and not resuming:
        raise UsageError(
            f"output_dir {folder} is not empty. Give another --output_dir, --overwrite_output to "
            "replace the results in it, or --resume_from_checkpoint last to continue."
        )
    return []


def checkpoint_of(arguments: Arguments, seed: int) -> str | None:
    """Return the checkpoint from which a seed continues; None if it starts anew."""
    wanted = arguments.training.resume_from_checkpoint
    if names_a_folder(wanted):
        return wanted
    return last_checkpoint(arguments.training, seed_folder(arguments, seed))


def last_checkpoint(training: TrainingArguments, folder: Path) -> str | None:
    """Return the newest whole checkpoint in a folder, or None; remove those that are not whole."""
    for path in remove_torn(folder) if training.should_save else ():
        print_once(training, f"passed over and removed, since it is not whole: {path}")
    found = newest_whole(folder)
    return None if found is None else str(found)


def remove_timed_checkpoints(arguments: Arguments, seed: int) -> None:
    """Remove the checkpoints of a finished seed, unless `--save_strategy` asked for them."""
    if arguments.training.should_save and arguments.training.save_strategy == "no":
        folder = seed_folder(arguments, seed)
        remove_checkpoints(folder)
        shutil.rmtree(folder / DENSE_TRAINING, ignore_errors=True)


def _continue(arguments: Arguments, data: Mapping[str, str], path: Path) -> list[dict[str, Any]]:
    try:
        found = read_json_object(path)
        before = {**data, **found.get("data", {})}  # older results have none
        there, runs = _of_today(found["configuration"]), found["runs"]
        if not isinstance(runs, list) or not all("seed" in run for run in runs):
            raise ValueError(f"{path} should have runs with a seed each")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} has no results of hf_td. Give another --output_dir.") from error
    here = json.loads(json.dumps(arguments.configuration()))
    begun = any(any(path.parent.glob(f"seed-*/{part}")) for part in ("checkpoint-*", "dense*"))
    if there != here and (runs or begun):
        raise UsageError(
            f"{path} is of another configuration ({_difference(there, here)}). Give another "
            "--output_dir, or --overwrite_output to replace it."
        )
    changed = [name for name in data if data[name] != before[name]]
    if changed and (runs or begun):
        raise UsageError(
            f"the files of --{changed[0]} have changed since {path} was written. Give another "
            "--output_dir, or --overwrite_output to replace it."
        )
    return runs


def _of_today(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the defaults of settings that did not exist when it was made."""
    settings = configuration.get("targeted_dropout")
    if settings is None:
        return configuration
    known = TargetedDropoutConfig.from_dict(settings).to_dict()
    known.pop("seed")
    return {**configuration, "targeted_dropout": known}


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    flat = [
        {**side.get("targeted_dropout", {}), **side.get("arguments", {})} for side in (there, here)
    ]
    names = sorted(flat[0].keys() | flat[1].keys())
    changed = {
        name: [side.get(name, "default") for side in flat]
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    }
    # Schedules are long, and mostly follow from the rest.
    short = {n: both for n, both in changed.items() if not any(isinstance(v, dict) for v in both)}
    shown = short or changed
    return "; ".join(f"{name}: {there} there, {here} here" for name, (there, here) in shown.items())
