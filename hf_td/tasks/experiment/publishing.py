"""Exports what was fine-tuned, with a card that tells of the run, and publishes it on the Hub."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils.generic import find_labels

from hf_td.compaction import can_compact, compact_model
from hf_td.files import write_json
from hf_td.hub import CardInfo, Export, Latency, export_model, measure_latency, push_to_hub
from hf_td.pruning import prune_model
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.experiment.errors import UsageError, blaming_input
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.models import base_model_facts
from hf_td.tasks.experiment.output import EXPORT, seed_folder
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.experiment.results import Results

# In an export, what was asked for when it was made. Hidden, so that it is not published; in the
# export, so that it goes with it.
_ASKED = ".asked.json"
_LATENCY_BATCH = 8


def publish(arguments: Arguments, problem: Problem, results: Results) -> None:
    """Export the model of each seed, pruned, and push it where that was asked for.

    Exports that are there already are kept if they are what this call asks for, so a call that
    failed on its way to the Hub can be repeated; others are replaced.

    Args:
        arguments: of the experiment; `export_sparsity` says how much to prune.
        problem: the task.
        results: of the experiment; the card tells them.

    Raises:
        UsageError: the model cannot be exported as was asked for, or the Hub refused it.
    """
    if not arguments.exports or not arguments.training.should_save:
        return
    for run in results["runs"]:
        folder = seed_folder(arguments, run["seed"]) / EXPORT
        asked = _asked(arguments, run["seed"])
        if _holds(folder, asked):
            print(f"kept from an earlier call: the export in {folder}", flush=True)
        else:
            replaced = ", in place of an earlier export" if folder.exists() else ""
            export = _export(arguments, problem, results, run, folder)
            write_json(folder / _ASKED, asked)
            print(f"exported as {export.form} ({export.reason}) to {folder}{replaced}", flush=True)
        if arguments.training.push_to_hub:
            _push(arguments, folder, arguments.repo_id(run["seed"]))


def _asked(arguments: Arguments, seed: int) -> dict[str, Any]:
    """What a call asks of the export of a seed, as JSON values; all of it shows in the export."""
    return {
        "sparsity": arguments.sparsity_to_export,
        "form": arguments.curve.export_form,
        "repo_id": arguments.repo_id(seed) if arguments.training.push_to_hub else None,
    }


def _holds(folder: Path, asked: dict[str, Any]) -> bool:
    try:
        return json.loads((folder / _ASKED).read_text(encoding="utf-8")) == asked
    except (OSError, ValueError):
        return False


def _export(
    arguments: Arguments, problem: Problem, results: Results, run: dict[str, Any], folder: Path
) -> Export:
    with blaming_input():
        model = problem.load_model(folder.parent)
        how = how_to_prune(model, problem, arguments)
        prune_model(model, arguments.sparsity_to_export, **how)
        card = _card(arguments, problem, results, run, _latency(model, problem))
        point = card.exported_point
        return export_model(
            model,
            folder,
            form=arguments.curve.export_form,
            processing_class=problem.processor,
            metrics=dict(point.metrics) if point else None,
            card=card,
            overwrite=True,
        )


def _card(
    arguments: Arguments,
    problem: Problem,
    results: Results,
    run: dict[str, Any],
    latency: Latency | None,
) -> CardInfo:
    training = arguments.training
    targeted = METHODS[arguments.curve.method].targets
    return CardInfo(
        name=Path(arguments.repo_id(run["seed"])).name,
        repo_id=arguments.repo_id(run["seed"]) if training.push_to_hub else None,
        task=problem.task,
        dataset=problem.dataset,
        dataset_config=problem.dataset_config,
        dataset_split=problem.split,
        metric=problem.metric if run["curve"] else None,
        lower_is_better=problem.lower_is_better,
        curve=run["curve"],
        sparsity=arguments.sparsity_to_export if run["curve"] else None,
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


def _method(arguments: Arguments) -> str:
    """The method with its settings, and whether the model was distilled."""
    method = METHODS[arguments.curve.method]
    settings = method.settings(arguments.training.level, arguments.method_settings) or {}
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    taught = ", distilled from a dense model" if arguments.training.teacher else ""
    return f"{method.label}{f' ({listed})' if listed else ''}{taught}"


def _latency(model: Any, problem: Problem) -> Latency | None:
    """Of the compact model against the dense one; None where nothing can be taken out."""
    if not can_compact(model):
        return None
    compact = compact_model(copy.deepcopy(model))
    data = problem.eval_data
    data = next(iter(data.values())) if isinstance(data, dict) else data
    batch = problem.collator([data[i] for i in range(min(_LATENCY_BATCH, len(data)))])
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    labels = find_labels(type(model))
    inputs = {name: value.to(device) for name, value in batch.items() if name not in labels}
    return measure_latency(model.to(device), compact.to(device), inputs)


def _push(arguments: Arguments, folder: Path, repo_id: str) -> None:
    training = arguments.training
    try:
        commit = push_to_hub(
            folder, repo_id, private=training.hub_private_repo, token=training.hub_token
        )
    except (ValueError, PermissionError, ConnectionError, RuntimeError) as error:
        raise UsageError(
            f"{error}\nThe results and the export are safe in {folder.parent}; the same command "
            "pushes them again without training"
        ) from error
    print(f"published: {commit.commit_url}", flush=True)
