"""Questions on texts that are longer than a model takes, as windows that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from hf_td.tasks.experiment.errors import UsageError
from hf_td.tasks.experiment.models import Tokenizer

# The columns that tell where a window lies; the model does not read them.
PLACE = ["row", "null", "token_starts", "token_ends"]


def make_windows(
    rows: datasets.Dataset, tokenizer: Tokenizer, *, length: int, stride: int
) -> datasets.Dataset:
    """A row for each window: the question, and as much of the context as there is room for.

    Args:
        rows: with the columns `question`, `context` and `answers`, a dictionary of the lists `text`
            and `answer_start`, empty where there is no answer; the first answer is to be learnt.
        tokenizer: a fast one, since it has to tell where in the text a token stands.
        length: most tokens of a window.
        stride: tokens of the context that a window shares with the one before it.

    Returns:
        What the model reads; `start_positions` and `end_positions`, the first and the last token of
        the answer, both `null` where the window does not hold all of it. And the columns `PLACE`:
        the number of the row; `null`, the token that stands for no answer; and for each token the
        characters of the context from `token_starts` to `token_ends`, -1 for any other text.

    Raises:
        UsageError: a question leaves less room than windows need to advance.
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
    """The most tokens that windows of a length can share where questions have one token."""
    return length - tokenizer.num_special_tokens_to_add(pair=True) - 2


def _check_room(questions: list[str], tokenizer: Tokenizer, length: int, stride: int) -> None:
    most = longest_stride(tokenizer, length) - stride + 1
    tokens = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for question, ids in zip(questions, tokens, strict=True):
        if len(ids) > most:
            raise UsageError(
                f"windows of {length} tokens of which {stride} are shared leave room for questions "
                f"of {most} tokens, and this one has {len(ids)}: {question!r}. Give a larger "
                "--max_seq_length or a smaller --doc_stride"
            )


def _place(spans: np.ndarray, *, null: int, answer: tuple[int, int] | None) -> dict[str, Any]:
    """The columns of one window that its spans `(tokens, 2)` and the answer's characters decide."""
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
    """The first and the last token of the characters from `first` to `last`; None if some lack."""
    context = np.flatnonzero(starts >= 0)
    if not len(context) or first < starts[context[0]] or last > ends[context[-1]]:
        return None
    start = np.searchsorted(ends[context], first, side="right")
    end = np.searchsorted(starts[context], last, side="left") - 1
    return (int(context[start]), int(context[end])) if start <= end else None


def _first_answer(answers: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
    """From which to which character it goes."""
    if not answers["text"] or not answers["text"][0]:
        return None
    start = answers["answer_start"][0]
    return start, start + len(answers["text"][0])


def _null_token(ids: list[int], tokenizer: Tokenizer) -> int:
    """The token that stands for the whole window, as BERT's first; without such a token the first.

    The special token can be elsewhere: XLNet has it at the end.
    """
    for special in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if special is not None and special in ids:
            return ids.index(special)
    return 0
