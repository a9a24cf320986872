"""Exports the fine-tuned models with model cards, and publishes them on the Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_td.files import read_json, write_json, write_text
from hf_td.hub import (
    CardInfo,
    Export,
    Latency,
    TextSample,
    export_model,
    push_to_hub,
)
from hf_td.pruning import prune_model
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.experiment.costs import compact_latency, timed_inputs
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.output import ASKED, EXPORT, PAGE, seed_folder
from hf_td.tasks.experiment.reporting import report_page
from hf_td.tasks.experiment.results import Results
from hf_td.tasks.experiment.stages import EXPORTING
from hf_td.tasks.experiment.wishes import prune_to_wishes
from hf_td.tasks.models import base_model_facts
from hf_td.tasks.progress import Job, say
from hf_td.tasks.task import Task, count_rows


def publish(arguments: Arguments, task: Task, results: Results, job: Job) -> None:
    """Prune and export the model of each seed, and push it to the Hub if asked to.

    An earlier export is kept if it was made for the same arguments, else replaced. A call whose
    push failed can therefore be repeated.

    Args:
        arguments: arguments of the experiment.
        task: the task.
        results: results of the experiment, for the model card.
        job: the job that the exports are part of.

    Raises:
        UsageError: the model cannot be exported in this form, or the Hub refused it.
    """
    if not arguments.exports or not arguments.training.should_save:
        return
    for run in results["runs"]:
        job.begin(EXPORTING, f"seed {run['seed']}")
        folder = seed_folder(arguments, run["seed"]) / EXPORT
        asked = _asked(arguments, run["seed"])
        if _holds(folder, asked):
            job.skip(EXPORTING, 1)
            say(f"kept from an earlier call: the export in {folder}")
        else:
            replaced = ", in place of an earlier export" if folder.exists() else ""
            folder.with_name(ASKED).unlink(missing_ok=True)  # a kill leaves no false record
            export = _export(arguments, task, results, run, folder)
            write_json(folder.with_name(ASKED), asked)
            job.advance(EXPORTING, 1)
            told = f"exported as {export.form} ({export.reason}) to {folder}{replaced}"
            say("\n".join([told, *export.notes]))
        _write_page(arguments, results, run, folder)
        if arguments.training.push_to_hub:
            _push(arguments, folder, arguments.repo_id(run["seed"]))


def _asked(arguments: Arguments, seed: int) -> dict[str, Any]:
    """Return the arguments that determine the export of a seed, as JSON values."""
    return {
        "sparsity": None if arguments.wishes else arguments.sparsity_to_export,
        **({"wishes": arguments.wishes} if arguments.wishes else {}),
        "form": arguments.curve.export_form,
        **({"report": True} if arguments.curve.export_report else {}),
        "repo_id": arguments.repo_id(seed) if arguments.training.push_to_hub else None,
    }


def _holds(folder: Path, asked: dict[str, Any]) -> bool:
    try:
        return folder.is_dir() and read_json(folder.with_name(ASKED)) == asked
    except (OSError, ValueError):
        return False


def _export(
    arguments: Arguments, task: Task, results: Results, run: dict[str, Any], folder: Path
) -> Export:
    with blaming_input():
        model = task.load_model(folder.parent)
        how = how_to_prune(model, task, arguments)
        inputs = how["example_inputs"]
        before = _written(model, task)
        if arguments.wishes:
            timed = timed_inputs(model, task)
            say(str(prune_to_wishes(model, task, arguments, how, timed)))
        else:
            prune_model(model, arguments.sparsity_to_export, **how)
        card = replace(
            _card(arguments, task, results, run, compact_latency(model, task, inputs)),
            sample=_sample(before, _written(model, task)),
        )
        point = card.exported_point
        return export_model(
            model,
            folder,
            form=arguments.curve.export_form,
            processing_class=task.processor,
            metrics=dict(point.metrics) if point else None,
            card=card,
            overwrite=True,
            example_inputs=inputs,
        )


def _write_page(arguments: Arguments, results: Results, run: dict[str, Any], folder: Path) -> None:
    """Write the report page into an export that has none, if asked to."""
    if arguments.curve.export_report and run["curve"] and not (folder / PAGE).is_file():
        write_text(folder / PAGE, report_page([results]))


def _card(
    arguments: Arguments,
    task: Task,
    results: Results,
    run: dict[str, Any],
    latency: Latency | None,
) -> CardInfo:
    training = arguments.training
    targeted = METHODS[arguments.curve.method].targets
    return CardInfo(
        name=Path(arguments.repo_id(run["seed"])).name,
        repo_id=arguments.repo_id(run["seed"]) if training.push_to_hub else None,
        task=task.name,
        labels=task.labels,
        dataset=task.dataset,
        dataset_config=task.dataset_config,
        dataset_split=task.split,
        trained_rows=count_rows(task.train_data),
        measured_rows=count_rows(task.eval_data),
        metric=task.metric if run["curve"] else None,
        lower_is_better=task.lower_is_better,
        curve=run["curve"],
        sparsity=arguments.sparsity_to_export if run["curve"] and not arguments.wishes else None,
        targeted_dropout=training.targeted_dropout() if targeted else None,
        method=_method(arguments),
        learning_rate=training.learning_rate,
        epochs=training.num_train_epochs,
        seed=run["seed"],
        environment=results["environment"],
        command=results["command"],
        latency=latency,
        **base_model_facts(arguments.model),
    )


def _written(model: Any, task: Task) -> tuple[str, str] | None:
    """Return a beginning and what a language model makes of it; None for other tasks."""
    return None if task.continue_text is None else task.continue_text(model)


def _sample(before: tuple[str, str] | None, after: tuple[str, str] | None) -> TextSample | None:
    if before is None or after is None:
        return None
    return TextSample(prompt=before[0], dense=before[1], pruned=after[1])


def _method(arguments: Arguments) -> str:
    """Return the method, its settings, and the mention of distillation."""
    method = METHODS[arguments.curve.method]
    settings = method.settings(arguments.training.level, arguments.method_settings) or {}
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    taught = ", distilled from a dense model" if arguments.training.teacher else ""
    return f"{method.label}{f' ({listed})' if listed else ''}{taught}"


def _push(arguments: Arguments, folder: Path, repo_id: str) -> None:
    training = arguments.training
    try:
        commit = push_to_hub(
            folder, repo_id, private=training.hub_private_repo, token=training.hub_token
        )
    except (ValueError, PermissionError, ConnectionError, RuntimeError) as error:
        raise UsageError(
            f"{error}\nThe results and the export are safe in {folder.parent}. The same command "
            "pushes them again without training."
        ) from error
    say(f"published: {commit.commit_url}")
