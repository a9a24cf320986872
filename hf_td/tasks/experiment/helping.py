"""The help of an experiment: the main options in groups, or all of them."""

from __future__ import annotations

import copy
from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from hf_td.recipes import RECIPES, recipe_value
from hf_td.schedules import Schedule
from hf_td.training.arguments import TargetedDropoutFields
from hf_td.training.distillation import DistillationFields

WIDTH = 100
_SHORT = ("--help", "-h")
ALL = "--help-all"
_MOST_BESIDE = 28  # letters of choices that are shown beside the option, not in its help

# The options of the short help, by group. Options of the data are all shown.
MAIN: dict[str, tuple[str, ...]] = {
    "Model": ("model_name_or_path", "trim_vocabulary", "trust_remote_code"),
    "Targeted dropout": (
        "method",
        "level",
        "targeting",
        "drop_rate",
        "recipe",
        "importance",
        "pattern",
        "fixed_sparsity",
        "eval_sparsity",
    ),
    "Distillation": ("teacher", "distill"),
    "Training": (
        "output_dir",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "per_device_train_batch_size",
        "dense_epochs",
        "bf16",
        "use_cpu",
        "resume_from_checkpoint",
        "metric_for_best_model",
        "seeds",
    ),
    "Measure, export, publish": (
        "sparsities",
        "compensate",
        "export_sparsity",
        "export_speedup",
        "export_max_bytes",
        "export_max_loss",
        "export_form",
        "push_to_hub",
    ),
}
_OTHERS = "Training, of transformers' TrainingArguments"


def wanted_help(argv: Iterable[str]) -> str | None:
    """Return the option of the command line that asks for help; None if there is none."""
    return next((word for word in argv if word in (*_SHORT, ALL)), None)


def help_text(
    parser: ArgumentParser,
    kinds: tuple[Any, ...],
    *,
    recipe: str,
    everything: bool,
    examples: str = "",
) -> str:
    """Return the help of an experiment.

    Args:
        parser: a parser of all options, with the defaults that hold.
        kinds: dataclasses of the options: of the model, of the data, of the curve, of the training.
        recipe: the recipe, a key of `RECIPES`, whose values are shown as defaults.
        everything: show all options with their whole help, not the main ones with their first
            sentence.
        examples: commands, one a line, shown at the end.
    """
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    groups = _all_groups(kinds, actions) if everything else _main_groups(kinds, actions)
    form = HelpFormatter(parser.prog, max_help_position=38, width=WIDTH)
    form.add_text(parser.description)
    for title, names in groups.items():
        form.start_section(title)
        form.add_arguments([_shown(actions[name], recipe, everything) for name in names])
        form.end_section()
    rest = "" if everything else f"\n--help-all lists the other {_rest(groups, actions)} options.\n"
    use = f"usage: {parser.prog} OPTIONS, or a .yaml or .json file with them\n\n"
    shown = f"\n\nexamples:\n{examples}" if examples else ""
    return f"{use}{form.format_help()}{rest}\n{recipe_table()}{shown}"


def _names(kind: Any, actions: Mapping[str, Action]) -> list[str]:
    return [f.name for f in fields(kind) if f.name in actions]


def _main_groups(kinds: tuple[Any, ...], actions: Mapping[str, Action]) -> dict[str, Iterable[str]]:
    groups: dict[str, Iterable[str]] = {}
    for title, names in MAIN.items():
        groups[title] = [name for name in names if name in actions]
        if title == "Model":
            groups["Data"] = _names(kinds[1], actions)
    return groups


def _all_groups(kinds: tuple[Any, ...], actions: Mapping[str, Action]) -> dict[str, Iterable[str]]:
    model, data, curve, training = (_names(kind, actions) for kind in kinds)
    ours = {
        "Targeted dropout": _names(TargetedDropoutFields, actions),
        "Distillation": _names(DistillationFields, actions),
    }
    own = {name for names in ours.values() for name in names}
    others = [name for name in training if name not in own]
    return {"Model": model, "Data": data, "Run": curve, **ours, _OTHERS: others}


def _rest(groups: Mapping[str, Iterable[str]], actions: Mapping[str, Action]) -> int:
    return len(actions.keys() - {name for names in groups.values() for name in names})


def _shown(action: Action, recipe: str, everything: bool) -> Action:
    """Return a copy of an option that is shown once, with a short name for its value."""
    shown = copy.copy(action)
    shown.option_strings = [f"--{action.dest}"]
    text = " ".join((action.help or "").replace("%(default)s", "").replace("%%", "%").split())
    text = text.removesuffix("(default: )").strip()
    if not everything:
        text = _first(text, ".;:" if action.choices else ".;")
    shown.help = _escaped(text + _default(action, recipe))
    shown.metavar = None if action.nargs == 0 else _value_name(action)
    return shown


def _first(text: str, ends: str) -> str:
    """Return what comes before the first of these signs that is outside of brackets and words."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter in ends and not depth and text[place + 1 : place + 2] in ("", " "):
            return text[:place]
    return text


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # argparse formats it


def _value_name(action: Action) -> str:
    if action.choices:
        return f"{{{_choices(action)}}}" if _few(action) else "NAME"
    kind = getattr(action.type, "__name__", "")
    return {"int": "N", "float": "X", "string_to_bool": "BOOL"}.get(kind, "TEXT")


def _choices(action: Action) -> str:
    return ",".join(map(str, action.choices or ()))


def _few(action: Action) -> bool:
    """Tell if the choices can stand beside the option."""
    return len(_choices(action)) < _MOST_BESIDE


def _default(action: Action, recipe: str) -> str:
    """Return the default in brackets; nothing where there is none."""
    names = _choices(action)
    known = "" if _few(action) or action.dest == "recipe" else f" ({names.replace(',', ', ')})"
    values = recipe_value(recipe, action.dest)
    if values is not None:
        weight, unit = (_plain(value) for value in values)
        return f"{known} [{weight}]" if weight == unit else f"{known} [{weight}; units {unit}]"
    if action.default in (None, False, "", []):
        return known
    return f"{known} [{_plain(action.default)}]"


def _plain(value: Any) -> str:
    value = getattr(value, "value", value)  # of an enumeration
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def recipe_table() -> str:
    """Return the values of all recipes as a table: of weights, and of units where they differ."""
    names = ["targeting", "drop_rate", "importance"]
    for rate in ("targeting", "drop_rate"):
        names += [f"{rate}_schedule", *(f"{rate}_{f}" for f in Schedule.__dataclass_fields__)]
    names.remove("targeting_shape")
    names.remove("drop_rate_shape")
    rows = [["--recipe", *RECIPES]]
    for name in names:
        cells = []
        for recipe in RECIPES:
            weight, unit = (_plain(value) for value in recipe_value(recipe, name) or ("", ""))
            cells.append(weight if weight == unit else f"{weight}/{unit}")
        if len(set(cells)) > 1:
            rows.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "Values of the recipes; where two are given, of weights/units:\n" + "\n".join(lines)
