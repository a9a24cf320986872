"""Prunes a model and exports it: `hf-td prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hf_td.anatomy import read_anatomy
from hf_td.cli.loading import load_model, load_processor
from hf_td.config import trained_with
from hf_td.files import check_free
from hf_td.hub.export import export_model
from hf_td.hub.forms import check_form
from hf_td.pruning import PruningReport, check_sparsity, prune_model
from hf_td.ranking.activations import FILE as ACTIVATIONS
from hf_td.ranking.activations import find_activations
from hf_td.ranking.learned import FILE as SCORES
from hf_td.ranking.learned import find_learned
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.example_inputs import read_example_inputs

_TOLERANCE = 0.005  # a sparsity that misses the wanted one by more is explained
# Importance that is read from a file that a training saves next to the weights.
_FILES = {"activation": (ACTIVATIONS, find_activations), "learned": (SCORES, find_learned)}


def prune_and_export(
    name: str,
    output: Path,
    *,
    sparsity: float,
    level: str | None,
    importance: str | None,
    form: str,
    budget: Literal["uniform", "global"],
    keep_heads_stock: bool,
    overwrite: bool,
    example_inputs: Path | None,
    trust_remote_code: bool,
) -> None:
    """Prune a model in one shot, export it, and print what was removed.

    The arguments are the options of `hf-td prune`. None stands for the setting of the training, and
    for heads and neurons without one.

    Raises:
        UsageError: an argument cannot work.
    """
    with blaming_input():  # before the long work
        check_sparsity(sparsity)
        check_free(output.absolute(), overwrite=overwrite)
        check_form(form, keep_heads_stock=keep_heads_stock)
    model, source = load_model(name, trust_remote_code=trust_remote_code)
    _check_measured(model, importance)
    processor = load_processor(source)
    level = level or ("unit" if trained_with(model) is None else None)
    settings: dict[str, Any] = {"level": level, "importance": importance}
    given = {setting: value for setting, value in settings.items() if value is not None}
    with blaming_input():
        inputs = read_example_inputs(example_inputs, model)
        anatomy = read_anatomy(model, inputs)
        report = prune_model(model, sparsity, budget=budget, anatomy=anatomy, **given)
        export = export_model(
            model,
            output,
            form=form,
            processing_class=processor,
            keep_heads_stock=keep_heads_stock,
            overwrite=overwrite,
            anatomy=anatomy,
            example_inputs=inputs,
        )
    print(
        f"{report.sparsity:.1%} of the prunable weights are pruned ({sparsity:.1%} asked for), "
        f"{report.share_of_parameters:.1%} of all parameters"
    )
    if report.sparsity < sparsity - _TOLERANCE:
        print(f"less than {sparsity:.1%}: {_shortfall(report, budget)}")
    size = f"{export.parameters:,} parameters, {export.bytes / 1e6:.1f} MB"
    print(f"{export.folder}: {export.form} form ({export.reason}), {size}")
    for note in export.notes:
        print(note)


def _check_measured(model: Any, importance: str | None) -> None:
    """Raise UsageError where an importance needs a file of the training, which is missing.

    Args:
        model: the model.
        importance: the one that was asked for; None for that of the training.
    """
    recorded = trained_with(model)
    wanted = importance or (recorded.importance if recorded else "magnitude")
    file, find = _FILES.get(wanted, ("", lambda _: True))
    if not find(model):
        raise UsageError(
            f"--importance {wanted} needs {file}, which is missing. A training with this "
            "importance saves it next to the weights. Put it there, or rank by magnitude: give the "
            "same command with --importance magnitude"
        )


def _shortfall(report: PruningReport, budget: str) -> str:
    """Return the reason for a sparsity below the wanted one."""
    if not any(block.removed for block in report.blocks):
        return "the number of pruned weights of each row is rounded down"
    if budget == "global":
        return "a global budget counts units, and some have more weights than others"
    fewest = min(report.blocks, key=lambda block: block.total)
    return (
        "whole units are pruned, and their number in each layer is rounded down: "
        f"{fewest.name} loses {fewest.removed} of {fewest.total}"
    )
