"""Makes calibration batches of any text, for a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from torch import Tensor
from transformers.models.auto import modeling_auto

from hf_td.tasks.data.files import READERS, kind_of
from hf_td.tasks.data.splits import is_text, load_rows

_LABELS = ("label", "labels")
_IGNORED = -100  # the label of a token that does not count
_MASKED = 7  # a masked language model guesses one of this many tokens


class _Row(NamedTuple):
    ids: list[int]
    label: Any = None


def calibration_batches(
    source: str,
    model: Any,
    tokenizer: Any,
    *,
    rows: int = 128,
    length: int = 128,
    size: int = 8,
    labelled: bool = False,
    skip: int = 0,
) -> list[dict[str, Tensor]]:
    """Return batches of the first texts of a file, a folder or a data set.

    A causal language model gets the texts one after the other, cut into rows of full length. Any
    other model gets one text in a row: all columns of text of a row of a table, joined.

    Args:
        source: any file of text, a table (csv, json, parquet), a local folder, or an id on the
            Hub, also `ID:CONFIGURATION`. Of a data set the split `train` is read.
        model: that the batches are for; they are on its device.
        tokenizer: of the model.
        rows: number of rows of all batches together.
        length: the most tokens of a row.
        size: number of rows of a batch.
        labelled: add what the model computes its loss from. A language model has it in the text;
            any other needs a column `label` of numbers.

        skip: number of rows to leave out before the first.

    Raises:
        OSError: there are no such data.
        ValueError: the data cannot be read, hold no text, or have no labels.
    """
    table = _read(source)
    label = _label_of(table, source, model) if labelled and not _guesses_text(model) else None
    length = min(length, getattr(model.config, "max_position_embeddings", length))
    encoded = _pieces if is_a(model, "CAUSAL_LM") else _texts_in_rows
    found = list(
        islice(encoded(_texts(table, source, label), tokenizer, length), skip, skip + rows)
    )
    if not found:
        raise ValueError(f"{source} has no text" + (" left" if skip else ""))
    batches = [found[start : start + size] for start in range(0, len(found), size)]
    return [_batch(some, model, tokenizer, labelled=labelled) for some in batches]


def _read(source: str) -> datasets.Dataset:
    path = Path(source).expanduser()
    if path.is_file() and kind_of(path) not in READERS:
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source} is no text in UTF-8: {error}. Give a file of text"
            ) from error
        return datasets.Dataset.from_dict({"text": lines})
    name, _, config = (source, "", "") if path.exists() else source.partition(":")
    return load_rows(name, config=config or None, builtin="a local file of text")


def _label_of(table: datasets.Dataset, source: str, model: Any) -> str:
    for name in _LABELS:
        if name in table.column_names:
            return name
    raise ValueError(
        f"the loss of {type(model).__name__} needs labels, and {source} has no column "
        f"{' or '.join(_LABELS)}. Add one, or rank by activation"
    )


def _texts(table: datasets.Dataset, source: str, label: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the text of each row that has any, with its label."""
    columns = [name for name, feature in table.features.items() if is_text(feature)]
    columns = [name for name in columns if name != label]
    if not columns:
        raise ValueError(f"{source} has no column of text, only {', '.join(table.column_names)}")
    for row in table:
        assert isinstance(row, dict)
        text = " ".join(row[column] for column in columns if row[column])
        if text.strip():
            yield text, None if label is None else row[label]


def _pieces(texts: Iterable[tuple[str, Any]], tokenizer: Any, length: int) -> Iterator[_Row]:
    """Yield rows of full length of the tokens of all texts; the last may be shorter."""
    ids = chain.from_iterable(tokenizer(text)["input_ids"] for text, _ in texts)
    while piece := list(islice(ids, length)):
        yield _Row(piece)


def _texts_in_rows(texts: Iterable[tuple[str, Any]], tokenizer: Any, length: int) -> Iterator[_Row]:
    for text, label in texts:
        yield _Row(tokenizer(text, truncation=True, max_length=length)["input_ids"], label)


def _batch(
    rows: Sequence[_Row], model: Any, tokenizer: Any, *, labelled: bool
) -> dict[str, Tensor]:
    """Return rows as tensors, padded at the right to the longest."""
    longest = max(len(row.ids) for row in rows)
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in rows])
    batch = {"input_ids": ids, "attention_mask": mask}
    if is_a(model, "SEQ_TO_SEQ_CAUSAL_LM") or (labelled and is_a(model, "CAUSAL_LM")):
        batch["labels"] = ids.masked_fill(mask == 0, _IGNORED)  # makes the decoder's inputs too
    elif labelled and is_a(model, "MASKED_LM"):
        hidden = (mask == 1) & (torch.arange(longest) % _MASKED == _MASKED // 2)
        batch["labels"] = ids.masked_fill(~hidden, _IGNORED)
        batch["input_ids"] = ids.masked_fill(hidden, tokenizer.mask_token_id)
    elif labelled:
        batch["labels"] = torch.tensor([_number(row.label, model) for row in rows])
    return {name: value.to(model.device) for name, value in batch.items()}


def _number(label: Any, model: Any) -> Any:
    """Return a label as the number of its class; names are those that the model's config knows.

    A number is a name where all names are numbers, such as the stars of reviews.
    """
    known = {name: number for number, name in model.config.id2label.items()}
    if not isinstance(label, str | float | int) or (len(known) == 1 and not isinstance(label, str)):
        return label  # a score, or one for each class
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if str(label) in known:
        return known[str(label)]
    if label in known.values() and not all(_is_integer(name) for name in known):
        return label
    raise ValueError(
        f"the label {label!r} is none of {type(model).__name__}, which has {list(known)}. Give "
        "these names, or numbers from 0 for other names than numbers"
    )


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _guesses_text(model: Any) -> bool:
    return any(is_a(model, kind) for kind in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM"))


def is_a(model: Any, kind: str) -> bool:
    """Return True if the class of a model is registered for a kind of task."""
    names = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values()
    return type(model).__name__ in names
