"""Runs an experiment: every seed, with results on disk after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import rich

from hf_td.tasks.errors import blaming_input
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.checks import check_arguments
from hf_td.tasks.experiment.fingerprints import fingerprints
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.output import (
    finished_runs,
    print_once,
    remove_timed_checkpoints,
)
from hf_td.tasks.experiment.publishing import publish
from hf_td.tasks.experiment.results import (
    Results,
    Run,
    assemble,
    results_table,
    write_results,
)
from hf_td.tasks.experiment.run import fine_tune_and_measure
from hf_td.tasks.experiment.stages import TRAINING, job_of
from hf_td.tasks.experiment.stale import (
    check_overwriting,
    remove_export,
    remove_outputs,
    remove_pages,
)
from hf_td.tasks.models import ModelSource, find_model
from hf_td.tasks.progress import Job, showing_bars
from hf_td.tasks.task import Task
from hf_td.tasks.trimming import trimmed_source
from hf_td.training import forget_teacher


def run_experiment(
    arguments: Arguments, make_task: Callable[[Arguments, ModelSource], Task]
) -> Results:
    """Fine-tune and measure with every seed, and write results.json and the plot of the curve.

    A second call with equal arguments keeps finished seeds, and continues an unfinished one from
    its newest whole checkpoint.

    Args:
        arguments: arguments of the experiment.
        make_task: loads the task for a source of the model; called after the arguments are checked.

    Returns:
        The content of results.json.

    Raises:
        UsageError: an argument is wrong, or what it names does not exist.
        FloatingPointError: a loss is not finite.
    """
    check_arguments(arguments)
    with showing_bars(not arguments.training.disable_tqdm):
        return _run(arguments, make_task)


def _run(arguments: Arguments, make_task: Callable[[Arguments, ModelSource], Task]) -> Results:
    check_overwriting(arguments)
    data = fingerprints(arguments)  # before they are read
    with arguments.training.main_process_first(local=False):
        runs = finished_runs(arguments, data)
    source = find_model(arguments.model)
    task = make_task(arguments, source)
    if arguments.model.trim_vocabulary:
        source = trimmed_source(source, task)
        print_once(arguments.training, str(source.report))
        task = make_task(arguments, source)
    with arguments.training.main_process_first(local=False):
        remove_outputs(arguments)  # the input is known to be good
    record = partial(_record, arguments, task, data=data)
    record(runs)
    missing = _missing(arguments, runs)
    with closing(job_of(arguments, task, len(missing))) as job:
        runs = _run_seeds(arguments, task, runs, missing, job, record)
        results = assemble(arguments, task, runs, data)
        publish(arguments, task, results, job)
    return results


def _run_seeds(
    arguments: Arguments,
    task: Task,
    runs: list[Run],
    missing: Sequence[int],
    job: Job,
    record: Callable[[Sequence[Run]], None],
) -> list[Run]:
    """Return the finished runs, and a run of each missing seed; `record` writes them."""
    method = METHODS[arguments.curve.method].label
    try:
        for number, seed in enumerate(missing):
            print_once(arguments.training, f"seed {seed}: {method} on {task.name}")
            job.begin(TRAINING, f"seed {number + 1} of {len(missing)}")
            remove_export(arguments, seed)
            runs = [*runs, fine_tune_and_measure(task, arguments, seed, job)]
            remove_pages(arguments)
            record(runs)
            remove_timed_checkpoints(arguments, seed)
    finally:
        forget_teacher()
    return runs


def report(results: Results, folder: str | Path) -> None:
    """Print the table of an experiment, and the folder of its files."""
    rich.print(results_table(results))
    print(f"results, curve and models are in {folder}")


def _missing(arguments: Arguments, runs: Sequence[Run]) -> list[int]:
    finished = {run["seed"] for run in runs}
    kept = [seed for seed in arguments.seeds if seed in finished]
    if kept:
        print_once(arguments.training, f"kept from an earlier call: seeds {kept}")
    missing = [seed for seed in arguments.seeds if seed not in finished]
    if not missing:
        print_once(
            arguments.training,
            "all seeds are finished, so nothing is trained. Give --overwrite_output to begin anew, "
            "or other --seeds.",
        )
    return missing


def _record(
    arguments: Arguments, task: Task, runs: Sequence[Run], *, data: Mapping[str, str]
) -> None:
    if not arguments.training.should_save:
        return
    with blaming_input():
        results = assemble(arguments, task, runs, data)
        write_results(Path(str(arguments.training.output_dir)), results)
