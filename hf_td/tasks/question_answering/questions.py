"""Loads questions with contexts and answers, and checks them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import datasets

from hf_td.tasks.data.splits import (
    DatasetArguments,
    Loaded,
    check_columns,
    check_text,
    load_splits,
)
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.experiment.arguments import argument
from hf_td.tasks.question_answering.forms import one_question_a_row, with_answer_lists

logger = logging.getLogger(__name__)

SQUAD = "rajpurkar/squad"


@dataclass(kw_only=True)
class QuestionAnsweringArguments(DatasetArguments):
    """The questions to learn to answer, with contexts and answers."""

    dataset_name: str | None = argument(
        None, f"local folder or file, or Hub id; without it and without --train_file {SQUAD}"
    )
    question_column: str = argument("question", "column with the questions")
    context_column: str = argument("context", "column with the texts that contain the answers")
    answers_column: str = argument(
        "answers", "column with the answers: {text: [...], answer_start: [...]}, or one text"
    )
    answer_start_column: str | None = argument(
        None,
        "with answers that are one text, column with the place of its first character in the "
        "context; by default the first place where it is",
    )
    version_2_with_negative: bool = argument(
        False, "some questions have no answer, as in rajpurkar/squad_v2: their lists are empty"
    )
    null_score_diff_threshold: float = argument(
        0.0,
        "with --version_2_with_negative, the answer is empty if the score of no answer exceeds the "
        "best answer's score by more than this",
    )
    max_seq_length: int = argument(
        384, "tokens in a window: longer contexts are cut into overlapping windows"
    )
    doc_stride: int = argument(128, "tokens of the context that adjacent windows share")
    n_best_size: int = argument(20, "best starts, and best ends, of a window to consider")
    max_answer_length: int = argument(30, "maximum tokens in an answer")


def or_squad(data: QuestionAnsweringArguments) -> QuestionAnsweringArguments:
    """Return the arguments; those that name no data name SQuAD."""
    named = data.dataset_name is not None or data.train_file is not None
    return data if named else replace(data, dataset_name=SQUAD)


def load_questions(data: QuestionAnsweringArguments) -> Loaded:
    """Load `train` and `validation` with the columns `question`, `context` and `answers`.

    Raises:
        UsageError: a split or a column does not exist, or has other content.
    """
    names = {
        "question": data.question_column,
        "context": data.context_column,
        "answers": data.answers_column,
    }
    with blaming_input():
        loaded, measured = load_splits(data, "a folder with a file for each split")
        splits = datasets.DatasetDict({n: one_question_a_row(rows) for n, rows in loaded.items()})
        for standard, name in names.items():
            check_columns(splits, [name], f"--{standard}_column")
        for standard in ("question", "context"):
            check_text(splits, [names[standard]], f"--{standard}_column")
        splits = with_answer_lists(splits, data)
        chosen = {str(split): _renamed(rows, names) for split, rows in splits.items()}
        for split, rows in chosen.items():
            _check_complete(rows, split)
            _check_answers(rows, split, data)
    _warn_of_misplaced(chosen["train"])
    return Loaded(datasets.DatasetDict({**chosen}), measured)


def _renamed(rows: datasets.Dataset, names: dict[str, str]) -> datasets.Dataset:
    chosen = rows.select_columns(list(names.values()))
    return chosen.rename_columns({name: standard for standard, name in names.items()})


def _check_complete(rows: datasets.Dataset, split: str) -> None:
    for column in rows.column_names:
        missing = sum(value is None for value in rows[column])
        if missing:
            raise ValueError(f"{missing} of {len(rows)} rows of the {split} split have no {column}")


def _check_answers(rows: datasets.Dataset, split: str, data: QuestionAnsweringArguments) -> None:
    kind: Any = rows.features["answers"]
    parts = kind.items() if isinstance(kind, dict) else ()
    lists = {name for name, part in parts if isinstance(part, datasets.List | datasets.LargeList)}
    if not {"text", "answer_start"} <= lists:
        raise ValueError(
            f"the column {data.answers_column} of the {split} split must hold "
            f"{{text: [...], answer_start: [...]}}. It holds {kind}. One text also "
            "works. Name another with --answers_column."
        )
    uneven = sum(len(true["text"]) != len(true["answer_start"]) for true in rows["answers"])
    if uneven:
        raise ValueError(f"{uneven} rows of the {split} split have not as many starts as answers.")
    without = sum(not true["text"] for true in rows["answers"])
    if without and not data.version_2_with_negative:
        raise ValueError(
            f"{without} of {len(rows)} questions of the {split} split have no answer. Give "
            "--version_2_with_negative to learn empty answers."
        )


def _warn_of_misplaced(train: Any) -> None:
    misplaced = [row["question"] for row in train if not _has_its_answer(row)]
    if misplaced:
        logger.warning(
            "warning: in %d of %d training rows the answer is not at answer_start in the context; "
            "the first asks %r",
            len(misplaced),
            len(train),
            misplaced[0],
        )


def _has_its_answer(row: Any) -> bool:
    """Return True if the context has the first answer, the one to learn, at its start."""
    if not row["answers"]["text"]:
        return True
    text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
    return row["context"][start : start + len(text)] == text
