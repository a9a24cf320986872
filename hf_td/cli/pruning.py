"""Prunes a model and exports it: `hf-td prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig

from hf_td.anatomy import read_anatomy
from hf_td.cli.loading import load_model, load_processor
from hf_td.config import CONFIG_KEY, trained_with
from hf_td.files import check_free
from hf_td.hub.export import Export, export_model
from hf_td.hub.forms import check_form
from hf_td.hub.from_disk import prune_folder
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
    from_disk: bool,
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
    ranking = {"level": level, "importance": importance}
    given: dict[str, Any] = {n: value for n, value in ranking.items() if value is not None}
    writing = {"form": form, "keep_heads_stock": keep_heads_stock, "overwrite": overwrite}
    if from_disk:
        if example_inputs is not None or trust_remote_code:
            raise UsageError(
                "--from-disk runs no code of a repository, and reads no inputs. Leave out "
                "--example-inputs and --trust-remote-code."
            )
        report, export = _prune_on_disk(name, output, sparsity, budget=budget, **given, **writing)
    else:
        model, source = load_model(name, trust_remote_code=trust_remote_code)
        _check_measured(model, importance)
        processor = load_processor(source)
        given = _default_level(model.config) | given
        with blaming_input():
            inputs = read_example_inputs(example_inputs, model)
            anatomy = read_anatomy(model, inputs)
            report = prune_model(model, sparsity, budget=budget, anatomy=anatomy, **given)
            read: dict[str, Any] = {"anatomy": anatomy, "example_inputs": inputs}
            export = export_model(model, output, processing_class=processor, **writing, **read)
    _print_result(report, export, sparsity, budget)


def _prune_on_disk(
    name: str, output: Path, sparsity: float, **options: Any
) -> tuple[PruningReport, Export]:
    """Prune a folder without loading it.

    Raises:
        UsageError: there is no such folder, or it cannot be pruned in this way.
    """
    if not (Path(name) / "config.json").is_file():
        raise UsageError(
            f"--from-disk prunes a folder with a config.json, and {name} is none. Give a folder; "
            "of a model on the Hub, the one that `hf download` prints."
        )
    with blaming_input():
        default = _default_level(AutoConfig.from_pretrained(name))
        found = prune_folder(name, output, sparsity, **(default | options))
    return found.report, found.export


def _default_level(config: Any) -> dict[str, Any]:
    """Return heads and neurons as the level of a model that records no training."""
    return {} if hasattr(config, CONFIG_KEY) else {"level": "unit"}


def _print_result(report: PruningReport, export: Export, sparsity: float, budget: str) -> None:
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
