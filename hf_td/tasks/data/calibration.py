"""Makes calibration batches of any text, for a model and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from torch import Tensor
from transformers.models.auto import modeling_auto

from hf_td.tasks.data.files import READERS, kind_of
from hf_td.tasks.data.splits import is_text, load_rows
from hf_td.tasks.labels.values import is_list, named

_TEXT = "text"
_LABELS = ("label", "labels")
_IGNORED = -100  # the label of a token that does not count
_MASKED = 7  # a masked language model guesses one of this many tokens


class Columns(NamedTuple):
    """The columns of a table that are read.

    Attributes:
        text: those with the texts, two for pairs; empty for `text`, else the only one with text.
        label: that with the labels; None for `label` or `labels`.
        optional: those among them that a table may lack.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    optional: frozenset[str] = frozenset()

    def of(self, table: datasets.Dataset) -> Columns:
        """Return the columns without the optional ones that a table lacks; of a pair both go."""
        lacking = self.optional.difference(table.column_names)
        text = () if lacking.intersection(self.text) else self.text
        return Columns(text, None if self.label in lacking else self.label)


BY_NAME = Columns()


class _Row(NamedTuple):
    ids: list[int]
    label: Any = None
    types: Sequence[int] = ()  # of a pair, 1 for the tokens of the second text


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
    columns: Columns = BY_NAME,
) -> list[dict[str, Tensor]]:
    """Return batches of the first texts of a file, a folder or a data set.

    A causal language model gets the texts one after the other, cut into rows of full length. Any
    other model gets a text or a pair of texts in a row, as in its training. Where no column is
    named, and none of several is called `text`, all columns of text are joined; a classifier with
    labels needs names.

    Args:
        source: any file of text, a table (csv, json, parquet), a local folder, or an id on the
            Hub, also `ID:CONFIGURATION`. Of a data set the split `train` is read.
        model: that the batches are for; they are on its device.
        tokenizer: of the model.
        rows: number of rows of all batches together.
        length: the most tokens of a row.
        size: number of rows of a batch.
        labelled: add what the model computes its loss from. A language model has it in the text;
            any other needs a column of labels.
        skip: number of rows to leave out before the first.
        columns: of a table.

    Raises:
        OSError: there are no such data.
        ValueError: the data cannot be read, hold no text, or have no labels, or it is not clear
            which column is meant.
    """
    table = _read(source)
    columns = columns.of(table)
    exact = labelled and not _guesses_text(model)
    label = _label_of(table, source, model, columns.label) if exact else None
    names = _text_columns(table, source, columns.text, label)
    length = min(length, getattr(model.config, "max_position_embeddings", length))
    encoded = _pieces if is_a(model, "CAUSAL_LM") else _texts_in_rows
    texts = _texts(table, names, label, model)
    found = list(islice(encoded(texts, tokenizer, length), skip, skip + rows))
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


def _label_of(table: datasets.Dataset, source: str, model: Any, given: str | None) -> str:
    names = _LABELS if given is None else (given,)
    for name in names:
        if name in table.column_names:
            return name
    raise ValueError(
        f"the loss or metric of {type(model).__name__} needs labels, and {source} has no column "
        f"{' or '.join(names)}, only {', '.join(table.column_names)}. Name that of the labels "
        "(--label-column)"
    )


def _text_columns(
    table: datasets.Dataset, source: str, given: Sequence[str], label: str | None
) -> list[tuple[str, ...]]:
    """Return the columns of each text of a row; those of one text are joined."""
    found = [name for name, feature in table.features.items() if is_text(feature) and name != label]
    missing = [name for name in given if name not in found]
    if missing or not found:
        wanted = f"column of text {missing[0]}" if missing else "column of text"
        raise ValueError(f"{source} has no {wanted}, only {', '.join(table.column_names)}")
    if given or _TEXT in found:
        return [(name,) for name in given or (_TEXT,)]
    if label is not None and len(found) > 1:
        raise ValueError(
            f"{source} has several columns of text: {', '.join(found)}. Name that with the texts, "
            "or both of pairs (--text-column)"
        )
    return [tuple(found)]


def _texts(
    table: datasets.Dataset, columns: Sequence[Sequence[str]], label: str | None, model: Any
) -> Iterator[tuple[list[str], Any]]:
    """Yield the texts of each row that has any, with its label."""
    read = None if label is None else _reader(table.features[label], model)
    for row in table:
        assert isinstance(row, dict)
        texts = [" ".join(row[name] for name in joined if row[name]) for joined in columns]
        if "".join(texts).strip():
            yield texts, None if read is None else read(row[label])


def _reader(feature: Any, model: Any) -> Callable[[Any], Any]:
    """Return the function from a stored label to the label that `_number` knows."""
    classes = feature.feature if is_list(feature) else feature
    if not isinstance(classes, datasets.ClassLabel):
        return lambda label: label
    names = _known_names(classes.names, model, listed=classes is not feature)
    return lambda label: named(label, feature, names)


def _known_names(names: Sequence[str], model: Any, *, listed: bool) -> Sequence[Any]:
    """Return a label for each id of `ClassLabel`: where the model knows all names, the name.

    A model with equally many other names has the same ids. A regression reads names as numbers, as
    in training. A list of classes that the model does not know can be 0 or 1 for each of its own.
    """
    own = [name for _, name in sorted(model.config.id2label.items())]
    if len(own) == 1:
        with suppress(ValueError):
            return [float(name) for name in names]
        return range(len(names))
    if set(names) <= set(own):
        return names
    if len(names) == len(own):
        return own
    return range(len(names)) if listed else names


def _pieces(texts: Iterable[tuple[list[str], Any]], tokenizer: Any, length: int) -> Iterator[_Row]:
    """Yield rows of full length of the tokens of all texts; the last may be shorter."""
    ids = chain.from_iterable(tokenizer(" ".join(some))["input_ids"] for some, _ in texts)
    while piece := list(islice(ids, length)):
        yield _Row(piece)


def _texts_in_rows(
    texts: Iterable[tuple[list[str], Any]], tokenizer: Any, length: int
) -> Iterator[_Row]:
    for some, label in texts:
        made = tokenizer(*some, truncation=True, max_length=length)
        yield _Row(made["input_ids"], label, made.get("token_type_ids", ()))


def _batch(
    rows: Sequence[_Row], model: Any, tokenizer: Any, *, labelled: bool
) -> dict[str, Tensor]:
    """Return rows as tensors, padded at the right to the longest."""
    longest = max(len(row.ids) for row in rows)
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in rows])
    batch = {"input_ids": ids, "attention_mask": mask}
    if any(any(row.types) for row in rows):
        types = [[*row.types] + [0] * (longest - len(row.types)) for row in rows]
        batch["token_type_ids"] = torch.tensor(types)
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

    A number is a name where all names are numbers, such as the stars of reviews. Of a model with
    several labels in a row, return 0.0 or 1.0 for each class.
    """
    if label is None:
        raise ValueError("a row has no label. Give each row one, or leave out those without")
    known = {name: number for number, name in model.config.id2label.items()}
    if has_several_labels(model):
        return _bits(label, known, model)
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


def _bits(label: Any, known: dict[str, int], model: Any) -> list[float]:
    """Return 0.0 or 1.0 for each class, of such a list or of a list of names."""
    values = label if isinstance(label, list) else [label]
    if len(values) == len(known) and all(value in (0, 1) for value in values):
        return [float(value) for value in values]
    if all(value in known for value in values):
        chosen = {known[value] for value in values}
        return [float(number in chosen) for number in range(len(known))]
    raise ValueError(
        f"the labels {label!r} are none of {type(model).__name__}, which has {list(known)} and "
        "can have several in a row. Give a list of these names, or of 0 or 1 for each"
    )


def has_several_labels(model: Any) -> bool:
    """Return True for a classifier of which a row can have several labels."""
    return getattr(model.config, "problem_type", None) == "multi_label_classification"


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _guesses_text(model: Any) -> bool:
    return any(is_a(model, kind) for kind in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM"))


def is_a(model: Any, kind: str) -> bool:
    """Return True if the class of a model is registered for a kind of task."""
    names = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values()
    return type(model).__name__ in names
