"""Lists the stages of an experiment for its line of progress, and reports a Trainer's steps."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.progress import EXPORT_SECONDS, Job, Part, say
from hf_td.tasks.task import Task, count_rows

DENSE, TRAINING, MEASURING, EXPORTING = "plain fine-tuning", "training", "measuring", "exporting"

_UPDATE = 3  # a row's forward and backward, in forwards
_COSTS = 66 * 8  # rows of the forwards that `measure_costs` times


def job_of(arguments: Arguments, task: Task, seeds: int) -> Job:
    """Return the job of an experiment.

    Args:
        arguments: arguments of the experiment.
        task: the task.
        seeds: number of the seeds that are not finished.
    """
    training, curve = arguments.training, arguments.curve
    trained = _trained_rows(training, task)
    dense = trained
    if curve.dense_epochs is not None:
        dense = curve.dense_epochs * (count_rows(task.train_data) or 1)
    costs = _COSTS if curve.measure_costs else 0
    runs = seeds if arguments.trains else 0
    points = seeds * len(arguments.sparsities) if arguments.measures else 0
    exports = len(arguments.seeds) if arguments.exports else 0
    parts = {
        # A new head is known only once the model is loaded.
        DENSE: Part(units=runs if curve.dense_epochs else 0, rows=_UPDATE * dense),
        TRAINING: Part(units=runs, rows=_UPDATE * trained),
        MEASURING: Part(units=points, rows=(count_rows(task.eval_data) or 1) + costs),
        EXPORTING: Part(units=exports, guess=EXPORT_SECONDS),
    }
    return Job(parts, shown=training.should_save and not training.disable_tqdm)


def _trained_rows(training: Any, task: Task) -> float:
    """Return the rows that a training computes, each as often as it is computed."""
    if training.max_steps > 0:
        batch = training.train_batch_size * training.gradient_accumulation_steps
        return training.max_steps * batch * training.world_size
    return training.num_train_epochs * (count_rows(task.train_data) or 1)


def watch(trainer: Trainer, job: Job, kind: str, task: Task) -> None:
    """Report the steps of a Trainer to a job, in place of the Trainer's own bars.

    Args:
        trainer: its callbacks are changed.
        job: has the parts `kind` and `MEASURING`.
        kind: part of the job that the training is a unit of.
        task: the task that the Trainer measures on.
    """
    remove_bars(trainer)
    sets = len(task.eval_data) if isinstance(task.eval_data, dict) else 1
    trainer.add_callback(_Steps(job, kind, sets))


def remove_bars(trainer: Trainer) -> None:
    """Remove the callbacks of a Trainer that draw bars or print logs."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)


class _Steps(TrainerCallback):
    """A callback that reports steps to a job, and prints the logs of a training.

    Args:
        job: the job.
        kind: part of the job that the training is a unit of.
        sets: number of data sets of an evaluation.
    """

    def __init__(self, job: Job, kind: str, sets: int) -> None:
        self._job, self._kind, self._sets = job, kind, sets
        self._trains = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Skip the updates that a checkpoint has."""
        self._trains = True
        self._job.skip(self._kind, _done(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report an update."""
        self._job.advance(self._kind, 1 / state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Skip the updates that are left after an early stop."""
        self._trains = False
        self._job.skip(self._kind, 1 - _done(state))

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Report a batch, but for an evaluation in training: its time counts for the training."""
        if not self._trains and has_length(eval_dataloader):
            self._job.advance(MEASURING, 1 / len(eval_dataloader) / self._sets)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print what a training logs."""
        if self._trains and state.is_world_process_zero:
            shown = {name: value for name, value in logs.items() if name != "total_flos"}
            say(str({n: f"{v:.4g}" if isinstance(v, float) else v for n, v in shown.items()}))


def _done(state: Any) -> float:
    """Return the share of the updates that are done: all, where there are none to make."""
    return state.global_step / state.max_steps if state.max_steps else 1.0
