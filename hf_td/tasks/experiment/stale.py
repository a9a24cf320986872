"""Removes outputs of earlier calls that do not belong to the results of this one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.output import ASKED, EXPORT, PAGE, RESULTS, print_once, seed_folder

_OURS = (RESULTS, "curve.png", "curve.svg", PAGE, "seed-*")


def check_overwriting(arguments: Arguments) -> None:
    """Raise UsageError if `--overwrite_output` would remove what the call reads."""
    if not arguments.curve.overwrite_output:
        return
    read = {
        "model_name_or_path": arguments.model.model_name_or_path,
        "teacher": arguments.training.teacher,
        "resume_from_checkpoint": arguments.training.resume_from_checkpoint,
    }
    removed = [path.resolve() for path in _outputs(_folder(arguments))]
    for name, value in read.items():
        path = Path(str(value)).resolve()
        if any(path.is_relative_to(output) for output in removed):
            raise UsageError(
                f"--{name} {value} is in the output_dir that --overwrite_output clears. Give "
                "another --output_dir."
            )


def remove_outputs(arguments: Arguments) -> None:
    """Remove the files of earlier experiments, and no others, if `--overwrite_output` is given."""
    if arguments.curve.overwrite_output and arguments.training.should_save:
        for path in list(_outputs(_folder(arguments))):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_export(arguments: Arguments, seed: int) -> None:
    """Remove the export of a seed that is trained anew: it has the weights of another training."""
    export = seed_folder(arguments, seed) / EXPORT
    if arguments.training.should_save and export.is_dir():
        export.with_name(ASKED).unlink(missing_ok=True)
        shutil.rmtree(export)
        print_once(arguments.training, f"removed, since it is of an earlier training: {export}")


def remove_pages(arguments: Arguments) -> None:
    """Remove report pages of the run and in its exports: they lack a seed that is finished now."""
    if not arguments.training.should_save:
        return
    folder = _folder(arguments)
    for page in (folder / PAGE, *folder.glob(f"seed-*/{EXPORT}/{PAGE}")):
        if page.is_file():
            page.unlink()
            print_once(arguments.training, f"removed, since it lacks the new seed: {page}")


def _folder(arguments: Arguments) -> Path:
    return Path(str(arguments.training.output_dir))


def _outputs(folder: Path) -> Iterator[Path]:
    for pattern in _OURS:
        yield from folder.glob(pattern)
