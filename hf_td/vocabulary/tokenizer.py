"""A tokenizer with fewer tokens, by its tokenizer.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_td.vocabulary.models import token_model

_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
# Texts that are encoded together.
_BATCH = 1000


def spec_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the contents of the tokenizer.json of a tokenizer.

    Raises:
        ValueError: the tokenizer has none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json, which is what is trimmed. Load the "
            "tokenizer by AutoTokenizer, in its fast form"
        )
    return json.loads(backend.to_str())


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[int]:
    """Return how often each token id occurs in texts, special tokens included."""
    counts: Counter[int] = Counter()
    for ids in encoded(tokenizer, texts):
        counts.update(ids)
    return counts


def encoded(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yield the ids of each text, whole, with the special tokens that the tokenizer adds."""
    waiting = iter(texts)
    while batch := list(islice(waiting, _BATCH)):
        yield from tokenizer(batch, truncation=False, padding=False, verbose=False)["input_ids"]


def needed_ids(spec: Mapping[str, Any], wanted: Iterable[int]) -> set[int]:
    """Return the wanted ids with all that must stay beside them.

    These are the added tokens, special or not, those that padding and the post-processor add, the
    basic tokens of the model, and the parts of all.

    Args:
        spec: contents of a tokenizer.json.
        wanted: token ids.
    """
    model = token_model(spec["model"])
    tokens = model.tokens(spec["model"])
    added = {one["id"] for one in spec.get("added_tokens") or []}
    added |= set(_added_ids(spec.get("post_processor")))
    if spec.get("padding"):
        added.add(spec["padding"]["pad_id"])
    ids = set(wanted) | added | {tokens[token] for token in model.basic(spec["model"])}
    names = {place: token for token, place in tokens.items()}
    kept = [names[place] for place in ids if place in names]
    return ids | {tokens[t] for t in model.parts(spec["model"], kept) if t in tokens}


def trimmed_tokenizer(tokenizer: PreTrainedTokenizerBase, new_ids: Mapping[int, int]) -> Any:
    """Return the tokenizer with only these tokens.

    Args:
        tokenizer: a tokenizer that `spec_of` accepts.
        new_ids: old to new id of each kept token.

    Raises:
        ValueError: its class does not build the smaller vocabulary.
    """
    expected = {t: new_ids[i] for t, i in tokenizer.get_vocab().items() if i in new_ids}
    with TemporaryDirectory() as folder:
        written = tokenizer.save_pretrained(folder)
        for path in map(Path, written or ()):
            if path.suffix in (".txt", ".model") or path.name in (
                "vocab.json",
                "added_tokens.json",
            ):
                path.unlink(missing_ok=True)  # the same tokens once more, in an older format
        _rewrite(Path(folder, _FILE), lambda spec: _trimmed_spec(spec, new_ids))
        _rewrite(Path(folder, _SETTINGS), lambda settings: _trimmed_settings(settings, new_ids))
        # Some classes build a tokenizer of their own; the general one reads the file as it is.
        for kind in (type(tokenizer), PreTrainedTokenizerFast):
            found = kind.from_pretrained(folder)
            if found.get_vocab() == expected:
                return found
    raise ValueError(
        f"{type(tokenizer).__name__} cannot be trimmed: it does not build the vocabulary that its "
        "tokenizer.json says"
    )


def _rewrite(path: Path, change: Any) -> None:
    contents = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(contents), ensure_ascii=False), encoding="utf-8")


def _trimmed_spec(spec: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    model = token_model(spec["model"])
    names = model.tokens(spec["model"])
    ids = {token: new_ids[place] for token, place in names.items() if place in new_ids}
    added = [
        {**one, "id": new_ids[one["id"]]}
        for one in spec.get("added_tokens") or []
        if one["id"] in new_ids
    ]
    padding = spec.get("padding")
    if padding:
        padding = {**padding, "pad_id": new_ids[padding["pad_id"]]}
    return {
        **spec,
        "added_tokens": added,
        "padding": padding,
        "post_processor": _processor(spec.get("post_processor"), new_ids),
        "model": model.trimmed(spec["model"], ids),
    }


def _added_ids(spec: Any) -> Iterator[int]:
    """Yield the ids of the special tokens of a post-processor."""
    if not spec:
        return
    for one in spec.get("processors", ()):
        yield from _added_ids(one)
    special = spec.get("special_tokens", {})
    for one in special.values() if isinstance(special, dict) else ():
        yield from one["ids"]
    yield from (spec[name][1] for name in ("sep", "cls") if name in spec)


def _processor(spec: Any, new_ids: Mapping[int, int]) -> Any:
    """Return a post-processor with the new ids of its special tokens."""
    if not spec:
        return spec
    if spec["type"] == "Sequence":
        return {**spec, "processors": [_processor(one, new_ids) for one in spec["processors"]]}
    if spec["type"] == "TemplateProcessing":
        special = {
            name: {**one, "ids": [new_ids[place] for place in one["ids"]]}
            for name, one in spec["special_tokens"].items()
        }
        return {**spec, "special_tokens": special}
    pairs = {
        name: [spec[name][0], new_ids[spec[name][1]]] for name in ("sep", "cls") if name in spec
    }
    return {**spec, **pairs}


def _trimmed_settings(settings: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    added = settings.get("added_tokens_decoder")
    if added is None:
        return settings
    new = {str(new_ids[int(place)]): one for place, one in added.items() if int(place) in new_ids}
    return {**settings, "added_tokens_decoder": new}
