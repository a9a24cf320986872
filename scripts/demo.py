"""Compares targeted dropout with plain fine-tuning on the built-in task; results in runs/demo."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import rich
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_td import prune_model
from hf_td.files import folder_bytes, write_json
from hf_td.hub import CardInfo, Export, export_model
from hf_td.tasks.errors import run_program
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.experiment.comparison import comparison_table, plot_comparison
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.experiment.results import Results
from hf_td.tasks.experiment.series import run_experiment
from hf_td.tasks.glue.task import (
    GlueArguments,
    glue_task,
)
from hf_td.tasks.models import BUILTIN_MODEL, base_model_facts

EXPORTED = 0.75
RUN_GLUE = ".venv/bin/python scripts/run_glue.py"
COMMON = "--task_name acceptability --level unit --sparsities 0 0.25 0.5 0.75 --overwrite_output"
# Learning the task takes a few hundred updates; targeted dropout then keeps what is learnt.
EPOCHS = {"none": 6, "targeted_dropout": 3}
STAGES = {
    "none": "1/3 fine-tune MiniLM for 6 epochs as usual, and prune 25, 50 and 75 % of its "
    "heads and neurons",
    "targeted_dropout": "2/3 continue from that model for 3 epochs of targeted dropout, and prune "
    "as many",
}
AFTER = "targeted dropout, after plain fine-tuning"


def main(folder: Path = Path("runs/demo"), more: Sequence[str] = ()) -> None:
    """Run both experiments in `folder`, replacing earlier results, and compare them.

    Args:
        folder: folder of all results.
        more: further arguments of both experiments.
    """
    transformers.logging.set_verbosity_error()  # no warning that the head is new
    print("Which of two sentences is good English? 4,000 made-up examples, no download.")
    plain = run_stage("none", BUILTIN_MODEL, folder, more)
    fine_tuned = str(trained_model(plain, folder))
    targeted = run_stage("targeted_dropout", fine_tuned, folder, more)
    print("\n3/3 compare")
    compare([plain, {**targeted, "label": AFTER}], folder)


def run_stage(method: str, model: str, folder: Path, more: Sequence[str]) -> Results:
    """Run one of the two experiments like `scripts/run_glue.py`."""
    options = ["--model_name_or_path", model, "--method", method, *COMMON.split()]
    options += ["--num_train_epochs", str(EPOCHS[method])]
    options += ["--output_dir", str(stage_folder(folder, method)), *more]
    print(f"\n{STAGES[method]}:\n{RUN_GLUE} {shlex.join(options)}\n", flush=True)
    return run_experiment(parse_arguments(options, GlueArguments), glue_task)


def stage_folder(folder: Path, method: str) -> Path:
    """Return the folder of the results and the model of one experiment."""
    return folder / METHODS[method].label.replace(" ", "-")


def trained_model(results: Results, folder: Path) -> Path:
    """Return the folder of the fine-tuned model of an experiment."""
    return stage_folder(folder, results["method"]) / results["runs"][0]["model"]


def compare(experiments: Sequence[Results], folder: Path) -> None:
    """Write the common results, the plot and a small model, and print their paths."""
    write_json(folder / "results.json", experiments)
    plot, _ = plot_comparison(experiments, folder / "curve", "acceptability, MiniLM")
    model = trained_model(experiments[-1], folder)
    export = export_small(model, folder / "compact", card_of(experiments[-1]))
    caption = (
        f"on disk: {folder_bytes(model) / 1e6:.1f} MB dense, {export.bytes / 1e6:.1f} MB with "
        f"{EXPORTED:.0%} of the heads and neurons pruned"
    )
    rich.print(comparison_table(experiments, caption))
    places = {"results": folder / "results.json", "plot": plot, "model": model}
    for name, path in {**places, "compact": export.folder}.items():
        print(f"{name:8} {path}")


def card_of(results: Results) -> CardInfo:
    """Return the facts of training and measuring for the card of the small model."""
    run = results["runs"][0]
    return CardInfo(
        task=results["task"],
        dataset_split=results["split"],
        metric=results["metric"],
        curve=run["curve"],
        sparsity=EXPORTED,
        method=AFTER,
        seed=run["seed"],
        environment=results["environment"],
        command=results["command"],
        **base_model_facts(ModelArguments(BUILTIN_MODEL)),
    )


def export_small(model_folder: Path, target: Path, card: CardInfo) -> Export:
    """Prune and compact the model, and export it."""
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    prune_model(model, EXPORTED, level="unit")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    return export_model(model, target, processing_class=tokenizer, card=card, overwrite=True)


if __name__ == "__main__":
    ArgumentParser(description=__doc__).parse_args()
    run_program(main)
