"""Write docs/reference/arguments.md: every argument of the scripts that is not the Trainer's.

python scripts/reference.py
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from hf_td.analysis.tables import markdown_table
from hf_td.files import write_text
from hf_td.hub.forms import FORMS
from hf_td.recipes import RECIPES, recipe_value
from hf_td.tasks.experiment.arguments import CurveArguments, ModelArguments, recipe
from hf_td.tasks.registry import TASKS
from hf_td.training.arguments import TargetedDropoutFields
from hf_td.training.distillation import DistillationFields

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "arguments.md"
_INTRODUCTION = """# Arguments

The arguments of the scripts, written by `python scripts/reference.py`. On the command line they
are options, `--level unit`. In a .json or .yaml file they are names. Those of targeted dropout and
of distillation are fields of `TargetedDropoutArguments` as well. All arguments of transformers'
`TrainingArguments` are taken too; [some have other defaults](#defaults-of-the-scripts).

Where the default depends on the recipe, the value is that of `fine_tuning`, of weights and then of
units.
"""
_NO_STAGE = CurveArguments.dense_epochs
_SCRIPTS = {
    "`targeted_dropout`, weights": recipe("targeted_dropout", "weight"),
    "units": recipe("targeted_dropout", "unit"),
    "`--recipe language_model`": recipe("targeted_dropout", "unit", "language_model"),
    "plain fine-tuning and other methods": {**recipe("none"), "dense_epochs": _NO_STAGE},
}
_ABOUT_SCRIPTS = """`gradual_magnitude` has those of `targeted_dropout`. Tasks whose inputs all
have one size have `train_sampling_strategy random`. `dense_epochs none` is as many epochs as
`num_train_epochs` if the head of the model is new, else 0.
"""
_LOG = """## Log keys

The Trainer logs these beside its own. Progress is completed updates over all updates.

| key | |
|---|---|
| `targeting` | gamma of the update, in [0, 1) |
| `drop_rate` | alpha of the update, in [0, 1] |
| `dropped_share` | share of the targeted weights that the update dropped, in [0, 1] |
| `eval_NAME_at_S` | a metric of the model pruned to the sparsity S, if `eval_sparsity` is set |
"""


def main() -> None:
    """Write the page."""
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    write_text(PAGE, page())


def page() -> str:
    """Return the page of arguments."""
    parts = [_INTRODUCTION]
    for title, kind in _groups():
        rows = [(f"`{f.name}`", _default(f), _help(f)) for f in fields(kind) if f.init]
        parts.append(f"## {title}\n\n{_table(('argument', 'default', ''), rows)}\n")
    parts.append(f"## Defaults of the scripts\n\n{_defaults_of_scripts()}\n\n{_ABOUT_SCRIPTS}")
    rows = [(f"`{name}`", form.help) for name, form in FORMS.items()]
    parts.append(f"## Forms of export\n\n{_table(('form', ''), rows)}\n")
    return "\n".join([*parts, _LOG])


def _groups() -> Iterator[tuple[str, Any]]:
    yield "Targeted dropout", TargetedDropoutFields
    yield "Distillation", DistillationFields
    yield "Model", ModelArguments
    yield "Run, measure, export", CurveArguments
    for name, kind in TASKS.items():
        yield f"Data: {name.replace('_', ' ')}", kind.data


def _defaults_of_scripts() -> str:
    """Return the table of arguments whose default is no Trainer's or depends on the method."""
    names = dict.fromkeys(name for values in _SCRIPTS.values() for name in values)
    rows = [
        (f"`{name}`", *(_shown(values[name]) for values in _SCRIPTS.values())) for name in names
    ]
    return _table(("argument", *_SCRIPTS), rows)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return markdown_table(heads, rows, left_columns=len(heads), padded=False)


def _help(field: Field[Any]) -> str:
    text = " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
    choices = field.metadata.get("choices")
    known = f". One of {', '.join(map(str, choices))}" if choices and field.name != "recipe" else ""
    return f"{text}{known}".replace("|", "\\|")


def _default(field: Field[Any]) -> str:
    if field.name in _SCRIPTS["units"]:
        return "[by the method](#defaults-of-the-scripts)"
    values = recipe_value(next(iter(RECIPES)), field.name)
    if values is not None:
        return "; ".join(dict.fromkeys(map(str, values)))
    if field.default is MISSING and field.default_factory is MISSING:
        return "needed"
    value = field.default if field.default is not MISSING else field.default_factory()  # pyright: ignore
    value = getattr(value, "value", value)
    return "" if value in (None, []) else str(value)


if __name__ == "__main__":
    main()
