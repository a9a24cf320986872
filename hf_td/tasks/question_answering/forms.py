"""Brings the forms in which questions are kept into one: a question and its answers in each row."""

from __future__ import annotations

from typing import Any

import datasets

from hf_td.tasks.data.splits import check_columns, is_text

# The column of the files that SQuAD itself publishes: an article in each row.
_PARAGRAPHS = "paragraphs"


def one_question_a_row(rows: datasets.Dataset) -> datasets.Dataset:
    """Return a row for each question, also for SQuAD's own files with an article in each row."""
    if _PARAGRAPHS not in rows.column_names:
        return rows
    articles: Any = rows
    found = [
        {
            "question": question["question"],
            "context": paragraph["context"],
            "answers": _as_lists(question.get("answers") or []),
        }
        for article in articles
        for paragraph in article[_PARAGRAPHS]
        for question in paragraph["qas"]
    ]
    return datasets.Dataset.from_list(found, features=_FEATURES)


def with_answer_lists(splits: datasets.DatasetDict, arguments: Any) -> datasets.DatasetDict:
    """Return the splits with lists of answers, also where an answer is one text (empty for none).

    Args:
        splits: splits with the columns of questions, contexts and answers.
        arguments: `QuestionAnsweringArguments`, which name the columns.

    Raises:
        ValueError: an answer is not in its context, or there is no column with its start.
    """
    if not all(is_text(rows.features[arguments.answers_column]) for rows in splits.values()):
        return splits
    if arguments.answer_start_column is not None:
        check_columns(splits, [arguments.answer_start_column], "--answer_start_column")
    listed = {name: _listed(rows, arguments, str(name)) for name, rows in splits.items()}
    return datasets.DatasetDict(listed)


def _listed(rows: datasets.Dataset, arguments: Any, split: str) -> datasets.Dataset:
    texts, contexts = (
        [text or "" for text in rows[column][:]]
        for column in (arguments.answers_column, arguments.context_column)
    )
    starts = [context.find(text) for text, context in zip(texts, contexts, strict=True)]
    absent = [text for text, start in zip(texts, starts, strict=True) if start < 0]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(texts)} answers of the {split} split are not in their "
            f"contexts, such as {absent[0]!r}. An answer must be a part of its context. Correct "
            "or remove these rows, or name another column with --answers_column."
        )
    if arguments.answer_start_column is not None:
        starts = rows[arguments.answer_start_column][:]
    answers = [
        {"text": [text] if text else [], "answer_start": [int(start)] if text else []}
        for text, start in zip(texts, starts, strict=True)
    ]
    column = arguments.answers_column
    return rows.remove_columns([column]).add_column(column, answers, feature=_ANSWERS)  # type: ignore


def _as_lists(answers: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}


_TEXT, _NUMBER = datasets.Value("string"), datasets.Value("int32")
_ANSWERS = {"text": datasets.List(_TEXT), "answer_start": datasets.List(_NUMBER)}
_FEATURES = datasets.Features({"question": _TEXT, "context": _TEXT, "answers": _ANSWERS})
