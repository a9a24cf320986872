"""Fine-tunes on a kind of task, and finds the kind from the data: `hf-td train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from hf_td.cli.answers import Answer
from hf_td.cli.kinds import KINDS
from hf_td.tasks.data.files import read_file
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.parsing import names_a_file, read_arguments, suggestion
from hf_td.tasks.image_classification.task import DIGITS
from hf_td.tasks.language_modelling.task import SELF
from hf_td.tasks.registry import TASKS, run_task

# Data that need no download belong to one kind.
_BUILT_IN = {DIGITS: "images", SELF: "language"}


def train(kind: str | None, words: Sequence[str]) -> Answer:
    """Run the experiment that a command line describes, and print its results.

    Args:
        kind: a key of `KINDS`; None finds it from the data.
        words: arguments of the experiment, or the path of one .json or .yaml file.

    Raises:
        UsageError: an argument is wrong, or the data do not tell the kind.
    """
    kind = kind or find_kind(words)
    row, program = KINDS[kind], f"hf-td train {kind}"
    description = (
        "Fine-tunes with targeted dropout, and measures a metric at every sparsity. Data: "
        f"{row.help}."
    )
    results = run_task(
        row.task, words, description, program=program, examples=f"{program} {row.example}"
    )
    return Answer(shown=(), values=results)


def find_kind(words: Sequence[str]) -> str:
    """Return the only kind that has the options of the data, or else its columns.

    Raises:
        UsageError: several kinds fit, or none does; or the first word is an unknown kind.
    """
    if words and not words[0].startswith("-") and not names_a_file(words[:1]):
        raise UsageError(
            f"unknown kind of task {words[0]!r}. Give one of {', '.join(KINDS)}."
            f"{suggestion(words[0], list(KINDS))}"
        )
    given = dict(_given(words))
    built_in = _BUILT_IN.get(given.get("dataset_name", ""))
    if built_in is not None:
        return built_in
    own = {name: _fields(row.task) for name, row in KINDS.items()}
    every = set().union(*own.values())
    fitting = [name for name in KINDS if given.keys() & every <= own[name]]
    if len(fitting) > 1:
        fitting = _by_columns(fitting, given.get("train_file") or given.get("dataset_name"))
    if len(fitting) != 1:
        raise UsageError(
            "the data do not tell the kind of task. Name it: hf-td train KIND OPTIONS, where KIND "
            f"is {', '.join(KINDS)}"
        )
    return fitting[0]


def _given(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of the options, each with its first value or an empty text."""
    if names_a_file(words):
        with blaming_input():
            values = read_arguments(Path(words[0]))
        yield from ((name, str(value)) for name, value in values.items())
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            yield name, value if equals else following


def _fields(task: str) -> set[str]:
    return {field.name for field in fields(TASKS[task].data)}


def _by_columns(kinds: Sequence[str], source: str | None) -> list[str]:
    """Return the kinds whose columns are all in a local file, the most of them."""
    if source is None or not Path(source).expanduser().is_file():
        return []
    with blaming_input():
        columns = set(read_file(Path(source).expanduser()).column_names)
    found = [kind for kind in kinds if KINDS[kind].columns and KINDS[kind].columns <= columns]
    most = max((len(KINDS[kind].columns) for kind in found), default=0)
    return [kind for kind in found if len(KINDS[kind].columns) == most]
