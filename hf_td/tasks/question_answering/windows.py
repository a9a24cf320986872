"""Cuts contexts that are longer than a model takes into overlapping windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from hf_td.tasks.errors import UsageError
from hf_td.tasks.models import Tokenizer

# Columns with the position of a window; the model does not read them.
PLACE = ["row", "null", "token_starts", "token_ends"]


def make_windows(
    rows: datasets.Dataset, tokenizer: Tokenizer, *, length: int, stride: int
) -> datasets.Dataset:
    """Make a row for each window: the question and a part of the context.

    Args:
        rows: rows with the columns `question`, `context` and `answers`, a dictionary of the lists
            `text` and `answer_start`. The first answer is learnt; lists are empty for no answer.
        tokenizer: a fast tokenizer, because offsets of tokens are needed.
        length: maximum number of tokens in a window.
        stride: tokens of the context that a window shares with the previous window.

    Returns:
        The model's inputs, with the first and last token of the answer in `start_positions` and
        `end_positions`; both are `null` if the window does not contain the whole answer. The
        columns `PLACE` are the number of the row, the token `null` that stands for no answer, and
        for each token its first and last character in the context, `token_starts` and
        `token_ends` (-1 outside the context).

    Raises:
        UsageError: a question is too long for windows to advance.
    """

    def batch(columns: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        questions = [text.strip() for text in columns["question"]]
        _check_room(questions, tokenizer, length, stride)
        encoded: Any = tokenizer(
            questions,
            columns["context"],
            max_length=length,
            stride=stride,
            truncation="only_second",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sources, offsets = (
            encoded.pop(name) for name in ("overflow_to_sample_mapping", "offset_mapping")
        )
        windows = [
            _place(
                np.where(np.array(encoded.sequence_ids(i))[:, None] == 1, offsets[i], -1),
                null=_null_token(encoded["input_ids"][i], tokenizer),
                answer=_first_answer(columns["answers"][source]),
            )
            | {"row": numbers[source]}
            for i, source in enumerate(sources)
        ]
        return {**encoded, **{name: [w[name] for w in windows] for name in windows[0]}}

    return rows.map(batch, batched=True, with_indices=True, remove_columns=rows.column_names)


def longest_stride(tokenizer: Tokenizer, length: int) -> int:
    """Return the largest stride for windows of `length` tokens and questions of one token."""
    return length - tokenizer.num_special_tokens_to_add(pair=True) - 2


def _check_room(questions: list[str], tokenizer: Tokenizer, length: int, stride: int) -> None:
    most = longest_stride(tokenizer, length) - stride + 1
    tokens = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for question, ids in zip(questions, tokens, strict=True):
        if len(ids) > most:
            raise UsageError(
                f"windows of {length} tokens of which {stride} are shared leave room for questions "
                f"of {most} tokens, and this one has {len(ids)}: {question!r}. Give a larger "
                "--max_seq_length or a smaller --doc_stride."
            )


def _place(spans: np.ndarray, *, null: int, answer: tuple[int, int] | None) -> dict[str, Any]:
    """Return the columns of one window that follow from its spans `(tokens, 2)` and the answer."""
    starts, ends = spans.astype(np.int32).T
    first, last = (answer and _answer_tokens(starts, ends, *answer)) or (null, null)
    return {
        "start_positions": first,
        "end_positions": last,
        "null": null,
        "token_starts": starts,
        "token_ends": ends,
    }


def _answer_tokens(
    starts: np.ndarray, ends: np.ndarray, first: int, last: int
) -> tuple[int, int] | None:
    """Return the first and last token of the characters `first` to `last`; None if incomplete."""
    context = np.flatnonzero(starts >= 0)
    if not len(context) or first < starts[context[0]] or last > ends[context[-1]]:
        return None
    start = np.searchsorted(ends[context], first, side="right")
    end = np.searchsorted(starts[context], last, side="left") - 1
    return (int(context[start]), int(context[end])) if start <= end else None


def _first_answer(answers: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
    """Return the first character of the first answer and the one after its last."""
    if not answers["text"] or not answers["text"][0]:
        return None
    start = answers["answer_start"][0]
    return start, start + len(answers["text"][0])


def _null_token(ids: list[int], tokenizer: Tokenizer) -> int:
    """Return the position of the token that stands for no answer: the classification token.

    It can be anywhere: XLNet has it at the end. Without such a token it is the first token.
    """
    for special in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if special is not None and special in ids:
            return ids.index(special)
    return 0
