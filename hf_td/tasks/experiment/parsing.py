"""Reads the arguments of a script from the command line, or from one JSON or YAML file."""

from __future__ import annotations

import difflib
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from transformers import HfArgumentParser

from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments, CurveArguments, ModelArguments, recipe
from hf_td.tasks.experiment.helping import ALL, help_text, wanted_help
from hf_td.tasks.plain_values import read_values
from hf_td.training import TargetedDropoutArguments

_SUFFIXES = (".json", ".yaml", ".yml")


def parse_arguments(
    argv: Sequence[str] | None,
    data: type,
    *,
    description: str = "",
    training: type[TargetedDropoutArguments] = TargetedDropoutArguments,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    program: str | None = None,
    examples: str = "",
) -> Arguments:
    """Parse the arguments of an experiment.

    Args:
        argv: options, or the path of one .json, .yaml or .yml file with all of them; None reads
            `sys.argv`.
        data: dataclass of the data arguments.
        description: text for `--help`.
        training: dataclass of the training arguments.
        defaults: training arguments that differ from `recipe`.
        program: name of the program for `--help`; None for that of `sys.argv`.
        examples: commands, one a line, for `--help`.

    Raises:
        UsageError: the file cannot be read, or an argument is unknown, missing or wrong.
        SystemExit: `--help` or `--help-all` was given.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    kinds = _kinds(data, training)
    with blaming_input():
        if help_option := wanted_help(argv):
            parser = _parser(kinds, description, program)
            _show_help(argv, parser, kinds, defaults, examples, everything=help_option == ALL)
        if names_a_file(argv):
            values = read_arguments(Path(argv[0]))
            check_names(values, argv[0], data, training=training)
            deciding = {n: str(values[n]) for n in _DECIDING if n in values}
            values = {**recipe(**deciding, task=defaults), **values}
            return Arguments(*_parser(kinds, description).parse_dict(values))
        if names_a_file(argv[:1]):
            raise UsageError(
                f"the file of arguments {argv[0]} stands alone. Put the other arguments into it."
            )
        parser = _parser(kinds, description)
        parser.set_defaults(**recipe(**_deciding(argv), task=defaults))
        *groups, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
        _refuse(unknown, parser)
        return Arguments(*groups)


def names_a_file(argv: Sequence[str]) -> bool:
    """Return True if a command line is the path of one JSON or YAML file."""
    return len(argv) == 1 and Path(argv[0]).suffix in _SUFFIXES


def _show_help(
    argv: Sequence[str],
    parser: HfArgumentParser,
    kinds: tuple[type, ...],
    defaults: Mapping[str, Any],
    examples: str,
    *,
    everything: bool,
) -> NoReturn:
    """Print the help, with the defaults that the options of the command line decide, and exit."""
    deciding = _deciding(argv)
    parser.set_defaults(**recipe(**deciding, task=defaults))
    name = deciding.get("recipe", "fine_tuning")
    print(help_text(parser, kinds, recipe=name, everything=everything, examples=examples))
    raise SystemExit(0)


class _Raising(ArgumentParser):
    """Parser that raises UsageError; argparse ends the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Parser(_Raising, HfArgumentParser):
    """Parser of all arguments."""


def _parser(
    kinds: tuple[type, ...], description: str, program: str | None = None
) -> HfArgumentParser:
    return _Parser(
        kinds,  # pyright: ignore[reportArgumentType]
        prog=program,
        description=description,
        usage="%(prog)s [a .json or .yaml file | options]; --help lists the options",
        allow_abbrev=False,  # a misspelt option is an error, not another option
    )


# The arguments that select the recipe.
_DECIDING = ("method", "level", "recipe")


def _deciding(argv: Sequence[str]) -> dict[str, str]:
    first = _Raising(add_help=False, allow_abbrev=False)
    for name in _DECIDING:
        first.add_argument(f"--{name}", default=SUPPRESS)
    return vars(first.parse_known_args(argv)[0])


def read_arguments(path: Path) -> dict[str, Any]:
    """Return the values of a JSON or YAML file by the names of arguments.

    Raises:
        UsageError: the file holds something else.
    """
    values = read_values(path)
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold names and values of arguments. It holds {values!r}.")
    return values


def check_names(
    values: Mapping[str, Any],
    what: str,
    data: type,
    *,
    training: type[TargetedDropoutArguments] = TargetedDropoutArguments,
) -> None:
    """Raise UsageError for an unknown or a missing argument.

    Args:
        values: values by the names of arguments.
        what: source of the values, for the message.
        data: dataclass of the data arguments.
        training: dataclass of the training arguments.
    """
    known = {f.name: f for kind in _kinds(data, training) for f in fields(kind) if f.init}
    required = [f.name for f in known.values() if f.default is f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        faults = [f"lacks {missing}"] if missing else []
        faults += [f"has unknown arguments {unknown}"] if unknown else []
        hint = suggestion(unknown[0], list(known)) if unknown else ""
        raise UsageError(f"{what} {', and '.join(faults)}.{hint}")


def _kinds(data: type, training: type) -> tuple[Any, ...]:
    return ModelArguments, data, CurveArguments, training


def suggestion(name: str, known: list[str]) -> str:
    """Return the end of a message that names the nearest of the known names, if one is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _refuse(unknown: list[str], parser: HfArgumentParser) -> None:
    if not unknown:
        return
    known = [option for action in parser._actions for option in action.option_strings]
    hint = suggestion(unknown[0].split("=")[0], known)
    if not unknown[0].startswith("-"):
        hint = " The option before takes fewer values."
    raise UsageError(f"unknown arguments: {' '.join(unknown)}.{hint}")
