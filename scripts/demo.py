"""Compares targeted dropout with plain fine-tuning on the built-in task; see demo.sh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import rich
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_td import prune_model
from hf_td.analysis.record import write_json
from hf_td.experiment import (
    METHODS,
    Arguments,
    CurveArguments,
    DataArguments,
    ModelArguments,
    glue_problem,
    recipe,
    run_experiment,
    run_program,
)
from hf_td.experiment.comparison import comparison_table, plot_comparison
from hf_td.experiment.models import BUILTIN_MODEL
from hf_td.experiment.results import Results
from hf_td.hub import Export, export_model
from hf_td.hub.folders import folder_bytes
from hf_td.training import TargetedDropoutArguments

SPARSITIES = [0.0, 0.25, 0.5, 0.75, 0.9]
EXPORTED = 0.75
# The task takes a few hundred updates to be understood at all, at the lower learning rate of plain
# fine-tuning: only then targeting begins.
TRAINING = {
    **recipe("none"),
    "level": "unit",
    "num_train_epochs": 6,
    "targeting_begin": 0.3,
    "targeting_end": 0.7,
    "targeting_off": 0.25,
}
STAGES = {
    "none": "1/3 fine-tune MiniLM as usual, then take 25, 50, 75 and 90 % of its heads and neurons",
    "targeted_dropout": "2/3 fine-tune MiniLM with targeted dropout, then take as many",
}


def main(folder: Path = Path("runs/demo"), data: DataArguments | None = None) -> None:
    """Run both experiments in `folder`, in place of earlier ones, and report."""
    transformers.logging.set_verbosity_error()  # that a new head is new is no news
    data = data or DataArguments(task_name="acceptability")
    print("Which of two sentences is good English? 4,000 made-up examples, no download.")
    experiments = [run_stage(method, folder, data) for method in STAGES]
    print("\n3/3 compare")
    compare(experiments, folder)


def run_stage(method: str, folder: Path, data: DataArguments) -> Results:
    """One of the two experiments."""
    print(f"\n{STAGES[method]}", flush=True)
    training = TargetedDropoutArguments(
        **TRAINING, output_dir=str(stage_folder(folder, method)), disable_tqdm=False
    )
    curve = CurveArguments(method=method, sparsities=SPARSITIES, overwrite_output=True)
    model = ModelArguments(model_name_or_path=BUILTIN_MODEL)
    return run_experiment(Arguments(model, data, curve, training), glue_problem)


def stage_folder(folder: Path, method: str) -> Path:
    """Where the results and the model of one experiment are."""
    return folder / METHODS[method].label.replace(" ", "-")


def compare(experiments: Sequence[Results], folder: Path) -> None:
    """Write the common results, the plot and a small model, and say where everything is."""
    write_json(folder / "results.json", experiments)
    plot, _ = plot_comparison(experiments, folder / "curve", "acceptability, MiniLM")
    model = stage_folder(folder, "targeted_dropout") / experiments[-1]["runs"][0]["model"]
    export = export_small(model, folder / "compact")
    caption = (
        f"on disk: {folder_bytes(model) / 1e6:.1f} MB dense, {export.bytes / 1e6:.1f} MB with "
        f"{EXPORTED:.0%} of the heads and neurons gone"
    )
    rich.print(comparison_table(experiments, caption))
    places = {"results": folder / "results.json", "plot": plot, "model": model}
    for name, path in {**places, "compact": export.folder}.items():
        print(f"{name:8} {path}")


def export_small(model_folder: Path, target: Path) -> Export:
    """Prune the model for good, take out what is gone, and save what is left."""
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    prune_model(model, EXPORTED, level="unit")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    return export_model(model, target, processing_class=tokenizer, overwrite=True)


if __name__ == "__main__":
    run_program(main)
