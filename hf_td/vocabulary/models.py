"""The token models of tokenizer.json: what must stay beside a kept token, and the smaller model.

Without other tokens a text has to be split as before. WordPiece takes the longest match, Unigram
the best path: a choice among tokens that are kept does not change when others go. BPE merges pairs,
so every token between the characters and a kept token stays too, with its merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

# The `model` of a tokenizer.json.
Spec = dict[str, Any]


class TokenModel(NamedTuple):
    """How one type of token model is trimmed.

    Attributes:
        tokens: returns token to id.
        basic: returns the tokens that any text may need, such as single characters.
        parts: returns the tokens that must stay so that these tokens are still produced.
        trimmed: returns the model with only these tokens, by their new ids.
    """

    tokens: Callable[[Spec], dict[str, int]]
    basic: Callable[[Spec], set[str]]
    parts: Callable[[Spec, Iterable[str]], set[str]]
    trimmed: Callable[[Spec, Mapping[str, int]], Spec]


def token_model(spec: Spec) -> TokenModel:
    """Return how the model of a tokenizer.json is trimmed.

    Raises:
        ValueError: its type is none of WordPiece, Unigram, BPE and WordLevel.
    """
    kind = spec.get("type") or _guessed_type(spec)
    if kind not in _MODELS:
        raise ValueError(
            f"a tokenizer of the type {kind!r} cannot be trimmed; expected one of "
            f"{', '.join(_MODELS)}"
        )
    return _MODELS[kind]


def _guessed_type(spec: Spec) -> str:
    """Return the type of a model in an old file, which does not say it."""
    if "merges" in spec:
        return "BPE"
    if isinstance(spec["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in spec else "WordLevel"


def _dict_tokens(spec: Spec) -> dict[str, int]:
    return dict(spec["vocab"])


def _dict_trimmed(spec: Spec, ids: Mapping[str, int]) -> Spec:
    return {**spec, "vocab": {token: ids[token] for token in spec["vocab"] if token in ids}}


def _no_parts(spec: Spec, tokens: Iterable[str]) -> set[str]:
    return set()


def _unknown(spec: Spec) -> set[str]:
    token: str | None = spec.get("unk_token")
    return {token} if token is not None and token in spec["vocab"] else set()


def _wordpiece_basic(spec: Spec) -> set[str]:
    prefix = spec.get("continuing_subword_prefix") or ""
    return {t for t in spec["vocab"] if len(t.removeprefix(prefix)) == 1} | _unknown(spec)


def _unigram_tokens(spec: Spec) -> dict[str, int]:
    return {piece: place for place, (piece, _) in enumerate(spec["vocab"])}


def _unigram_basic(spec: Spec) -> set[str]:
    """Return single characters, bytes, the unknown piece, and the piece with the lowest score.

    The penalty of an unknown character follows from the lowest score.
    """
    vocabulary = spec["vocab"]
    basic = {piece for piece, _ in vocabulary if len(piece) == 1 or _is_byte(piece)}
    basic.add(min(vocabulary, key=lambda pair: pair[1])[0])
    if spec.get("unk_id") is not None:
        basic.add(vocabulary[spec["unk_id"]][0])
    return basic


def _unigram_trimmed(spec: Spec, ids: Mapping[str, int]) -> Spec:
    pairs = [pair for pair in spec["vocab"] if pair[0] in ids]
    pairs.sort(key=lambda pair: ids[pair[0]])
    unknown = spec.get("unk_id")
    if unknown is not None:
        unknown = ids[spec["vocab"][unknown][0]]
    return {**spec, "vocab": pairs, "unk_id": unknown}


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _merges(spec: Spec) -> list[tuple[str, str]]:
    """Return the merges, which old files write as strings."""
    pairs = (m.split(" ") if isinstance(m, str) else m for m in spec["merges"])
    return [(first, second) for first, second in pairs]


def _joined(spec: Spec, first: str, second: str) -> str:
    return first + second.removeprefix(spec.get("continuing_subword_prefix") or "")


def _bpe_basic(spec: Spec) -> set[str]:
    """Return the tokens that no merge makes: characters, bytes, tokens that are looked up whole."""
    made = {_joined(spec, *pair) for pair in _merges(spec)}
    return {token for token in spec["vocab"] if token not in made} | _unknown(spec)


def _bpe_parts(spec: Spec, tokens: Iterable[str]) -> set[str]:
    """Return the tokens between the characters and each token, as the merges go through them."""
    ranks = {pair: rank for rank, pair in enumerate(_merges(spec))}
    parts: set[str] = set()
    for token in tokens:
        symbols = _characters(spec, token)
        while True:
            pairs = list(pairwise(symbols))
            place = min(
                range(len(pairs)), key=lambda at: ranks.get(pairs[at], len(ranks)), default=0
            )
            if not pairs or pairs[place] not in ranks:
                break
            joined = _joined(spec, *pairs[place])
            symbols[place : place + 2] = [joined]
            parts.add(joined)
    return parts


def _characters(spec: Spec, token: str) -> list[str]:
    """Return the symbols with which the merges of a token start."""
    suffix = spec.get("end_of_word_suffix") or ""
    prefix = spec.get("continuing_subword_prefix") or ""
    inner = token.removesuffix(suffix) if suffix else token
    is_continued = bool(prefix) and inner.startswith(prefix)
    characters = list(inner.removeprefix(prefix) if is_continued else inner)
    symbols = [
        c if not place and not is_continued else prefix + c for place, c in enumerate(characters)
    ]
    if symbols and inner != token:
        symbols[-1] += suffix
    return symbols


def _bpe_trimmed(spec: Spec, ids: Mapping[str, int]) -> Spec:
    pairs = zip(spec["merges"], _merges(spec), strict=True)
    merges = [merge for merge, pair in pairs if {*pair, _joined(spec, *pair)} <= ids.keys()]
    return {**_dict_trimmed(spec, ids), "merges": merges}


# Another type of token model is another row.
_MODELS = {
    "WordPiece": TokenModel(_dict_tokens, _wordpiece_basic, _no_parts, _dict_trimmed),
    "Unigram": TokenModel(_unigram_tokens, _unigram_basic, _no_parts, _unigram_trimmed),
    "BPE": TokenModel(_dict_tokens, _bpe_basic, _bpe_parts, _bpe_trimmed),
    "WordLevel": TokenModel(_dict_tokens, _unknown, _no_parts, _dict_trimmed),
}
