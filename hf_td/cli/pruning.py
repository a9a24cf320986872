"""Prunes a model and exports it: `hf-td prune`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from hf_td.anatomy import read_anatomy
from hf_td.cli.amounts import Amount
from hf_td.cli.answers import Answer
from hf_td.cli.calibrating import Calibration
from hf_td.cli.evaluating import Evaluation
from hf_td.cli.exporting import export_lines, export_values
from hf_td.cli.forecasting import forecast, reporting_texts
from hf_td.cli.loading import check_output, find_sentence_modules, load_model, load_processor
from hf_td.cli.spending import Spending
from hf_td.compaction import layout_of_model
from hf_td.config import CONFIG_KEY, trained_with
from hf_td.hub.export import Export, export_model
from hf_td.hub.forms import check_form
from hf_td.hub.from_disk import prune_folder
from hf_td.pruning import PruningReport, check_sparsity, prune_model, prune_units
from hf_td.ranking.activations import FILE as ACTIVATIONS
from hf_td.ranking.activations import find_activations
from hf_td.ranking.learned import FILE as SCORES
from hf_td.ranking.learned import find_learned
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.wishes import Wish, prune_to

_TOLERANCE = 0.005  # a sparsity that misses the wanted one by more is explained
# Importance that is read from a file that a training saves next to the weights.
_FILES = {"activation": (ACTIVATIONS, find_activations), "learned": (SCORES, find_learned)}


def prune_and_export(
    name: str,
    output: Path,
    *,
    amount: Amount,
    spending: Spending,
    calibration: Calibration,
    evaluation: Evaluation,
    level: str | None,
    importance: str | None,
    form: str,
    keep_heads_stock: bool,
    multiple_of: int,
    from_disk: bool,
    overwrite: bool,
    example_inputs: Path | None,
    trust_remote_code: bool,
) -> Answer:
    """Prune a model in one shot, export it, and return what was removed.

    The arguments are the options of `hf-td prune`. None stands for the setting of the training, and
    for heads and neurons without one.

    Returns:
        What was removed and written. It is not met where a wish is missed by the last measurement.

    Raises:
        UsageError: an argument cannot work.
    """
    with blaming_input():  # before the long work
        _check_fractions(amount)
        check_form(form, keep_heads_stock=keep_heads_stock)
    check_output(name, output, overwrite=overwrite)
    evaluates = "max_loss" in amount.wishes and evaluation.source is None
    calibration.check(importance, evaluates=evaluates)
    evaluation.check(amount.wishes)
    spending.check()
    ranking = {"level": level, "importance": importance}
    given: dict[str, Any] = {n: value for n, value in ranking.items() if value is not None}
    writing: dict[str, Any] = {
        "form": form,
        "keep_heads_stock": keep_heads_stock,
        "multiple_of": multiple_of,
    }
    if from_disk:
        sparsity = _for_disk(amount, spending, calibration)
        if example_inputs is not None or trust_remote_code:
            raise UsageError(
                "--from-disk runs no code of a repository, and reads no inputs. Leave out "
                "--example-inputs and --trust-remote-code."
            )
        options = {**spending.budget_options, **given, **writing, "overwrite": overwrite}
        report, export = _prune_on_disk(name, output, sparsity, **options)
        return _answer(report, export, amount, spending.budget)
    model, source = load_model(name, trust_remote_code=trust_remote_code)
    if calibration.source is None:
        _check_measured(model, importance)
    processor = load_processor(source)
    writing["modules_from"] = find_sentence_modules(source)
    with blaming_input():
        inputs = read_example_inputs(example_inputs, model)
        read: dict[str, Any] = {"anatomy": read_anatomy(model, inputs), "example_inputs": inputs}
        if amount.units is None:
            given |= calibration.options(model, processor, importance)
            given |= spending.options(model, read)
            if "max_loss" in amount.wishes:
                given |= evaluation.options(model, processor)
        anatomy = read["anatomy"]
        with forecast(model, anatomy, {} if amount.wishes else given) as job:
            writing |= read
            with reporting_texts(job, model, anatomy):
                report, wishes = _prune(model, amount, spending, given, writing, processor)
            export = export_model(
                model, output, processing_class=processor, overwrite=overwrite, **writing
            )
    wishes = [replace(w, got=export.bytes) if w.name == "max_bytes" else w for w in wishes]
    for wish in wishes:
        if not wish.met:
            print(f"missed: {wish}. {output} is written all the same", file=sys.stderr)
    return _answer(report, export, amount, spending.budget, wishes)


def _check_fractions(amount: Amount) -> None:
    if amount.sparsity is not None:
        check_sparsity(amount.sparsity)


def _prune(
    model: Any,
    amount: Amount,
    spending: Spending,
    given: dict[str, Any],
    writing: dict[str, Any],
    processor: Any,
) -> tuple[PruningReport, tuple[Wish, ...]]:
    """Prune a model as asked for; return what is removed, and what was got of wishes."""
    if amount.units is not None:
        return prune_units(model, amount.units, anatomy=writing["anatomy"]), ()
    if not amount.wishes:
        assert amount.sparsity is not None
        read = {name: writing[name] for name in ("anatomy", "example_inputs")}
        options = {**default_level(model.config, given.get("importance")), **read, **given}
        return prune_model(model, amount.sparsity, **options), ()
    wishes: dict[str, Any] = {**amount.wishes, **spending.shape}
    options = {**default_level(model.config, given.get("importance")), **given}
    found = prune_to(model, **wishes, **writing, **options, processing_class=processor)
    return found.pruning, found.wishes


def _for_disk(amount: Amount, spending: Spending, calibration: Calibration) -> float:
    """Return the sparsity, or raise UsageError for what needs the whole model in memory."""
    wanted = amount.sparsity
    if not isinstance(wanted, float) or calibration.source is not None or spending.of == "latency":
        raise UsageError(
            "--from-disk takes a --sparsity of all parts, and runs no forward. Leave out other "
            "amounts, --calibration and --of latency, or leave out --from-disk."
        )
    return wanted


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
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        default = default_level(config, None)
        found = prune_folder(name, output, sparsity, **(default | options))
    return found.report, found.export


def default_level(config: Any, importance: str | None) -> dict[str, Any]:
    """Return the levels of an importance, and heads and neurons if no training is recorded."""
    if importance == "reap":  # ranks whole experts alone
        return {"attention_level": "none", "feed_forward_level": "none", "experts_level": "unit"}
    return {} if hasattr(config, CONFIG_KEY) else {"level": "unit"}


def _answer(
    report: PruningReport, export: Export, amount: Amount, budget: str, wishes: Sequence[Wish] = ()
) -> Answer:
    return Answer(
        shown=(*map(str, wishes), *_removed(report, amount, budget), *export_lines(export)),
        values={
            "pruning": report.to_dict(),
            "wishes": [{**asdict(wish), "met": wish.met} for wish in wishes],
            "export": export_values(export),
        },
        met=all(wish.met for wish in wishes),
    )


def _removed(report: PruningReport, amount: Amount, budget: str) -> Iterator[str]:
    asked = f" ({amount} asked for)" if amount.sparsity is not None else ""
    yield (
        f"{report.sparsity:.1%} of the prunable weights are pruned{asked}, "
        f"{report.share_of_parameters:.1%} of all parameters"
    )
    sparsity = amount.sparsity
    if isinstance(sparsity, float) and report.sparsity < sparsity - _TOLERANCE:
        yield f"less than {sparsity:.1%}: {_shortfall(report, budget)}"
    if isinstance(sparsity, float) and exceeds(report.sparsity, sparsity):
        yield f"more than {sparsity:.1%}: {_surplus(budget)}"


def exceeds(removed: float, asked: float) -> bool:
    """Return True if more is removed than was asked for, beyond rounding."""
    return removed > asked + _TOLERANCE


def _surplus(budget: str) -> str:
    """Return the reason for a sparsity above the wanted one."""
    if budget == "global":
        return "some units have more weights than others, or weights were zero before"
    return "the other weights were zero before"


def _check_measured(model: Any, importance: str | None) -> None:
    """Raise UsageError where an importance needs a file of the training, which is missing.

    Args:
        model: the model.
        importance: the one that was asked for; None for that of the training.
    """
    recorded = trained_with(model)
    wanted = importance or (recorded.importance if recorded else "magnitude")
    file, find = _FILES.get(wanted, ("", lambda _: True))
    if find(model):
        return
    cure = "Put it there, or rank by magnitude: give the same command with --importance magnitude"
    if layout_of_model(model) is not None:
        cure = (
            "It does not fit a compact model. Prune the model that was trained, or rank this one "
            "by magnitude (--importance magnitude) or on texts (--calibration)"
        )
    raise UsageError(
        f"--importance {wanted} needs {file}, which is missing. A training with this importance "
        f"saves it next to the weights. {cure}"
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
