"""The output folder: what an earlier call left there is kept, continued or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.checks import names_a_folder
from hf_td.tasks.experiment.errors import UsageError

RESULTS = "results.json"
EXPORT = "export"
_OURS = (RESULTS, "curve.png", "curve.svg", "seed-*")


def tell(training: TrainingArguments, line: str) -> None:
    """Print a line at once, in one of the processes that train together."""
    if training.should_save:
        print(line, flush=True)


def seed_folder(arguments: Arguments, seed: int) -> Path:
    """Where the model and the checkpoints of a seed are."""
    return Path(str(arguments.training.output_dir)) / f"seed-{seed}"


def finished_runs(arguments: Arguments) -> list[dict[str, Any]]:
    """The runs that an earlier call of the same experiment finished.

    With `--overwrite_output`, what earlier experiments wrote is removed (nothing else is).

    Raises:
        UsageError: the folder holds another experiment, or anything else.
    """
    folder = Path(str(arguments.training.output_dir))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir {folder} is not a folder")
    overwrites = arguments.curve.overwrite_output
    if overwrites and arguments.training.should_save:  # one process removes
        _clear(folder)
    if (folder / RESULTS).is_file():
        return _continue(arguments, folder / RESULTS)
    resuming = str(arguments.training.resume_from_checkpoint).lower() not in ("none", "", "false")
    if folder.is_dir() and any(folder.iterdir()) and not (resuming or overwrites):
        raise UsageError(
            f"output_dir {folder} is not empty; give another --output_dir, --overwrite_output to "
            "replace the results in it, or --resume_from_checkpoint last to continue"
        )
    return []


def checkpoint_of(arguments: Arguments, seed: int) -> str | None:
    """The checkpoint from which a seed goes on, or None where it starts anew."""
    wanted = arguments.training.resume_from_checkpoint
    if names_a_folder(wanted):
        return wanted
    return last_checkpoint(seed_folder(arguments, seed))


def last_checkpoint(folder: Path) -> str | None:
    """The checkpoint of a folder with the most updates, or None."""
    found = folder.glob("checkpoint-*/trainer_state.json")
    steps = {int(path.parent.name.split("-")[1]): path.parent for path in found}
    return str(steps[max(steps)]) if steps else None


def _clear(folder: Path) -> None:
    for path in [path for pattern in _OURS for path in folder.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _continue(arguments: Arguments, path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        there, runs = found["configuration"], found["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no results of hf_td; give another --output_dir") from error
    here = json.loads(json.dumps(arguments.configuration()))
    begun = any(any(path.parent.glob(f"seed-*/{part}")) for part in ("checkpoint-*", "dense*"))
    if there != here and (runs or begun):
        raise UsageError(
            f"{path} is of another configuration ({_difference(there, here)}); give another "
            "--output_dir, or --overwrite_output to replace it"
        )
    return runs


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    flat = [
        {**side.get("targeted_dropout", {}), **side.get("arguments", {})} for side in (there, here)
    ]
    names = sorted(flat[0].keys() | flat[1].keys())
    shown = [
        f"{name}: {flat[0].get(name, 'default')} there, {flat[1].get(name, 'default')} here"
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]
    return "; ".join(shown)
