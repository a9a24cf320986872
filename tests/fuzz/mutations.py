"""Structural changes of JSON values, safetensors files and bytes, drawn at random."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 7, 255, 2**31, 2**63, 10**30, -0.5, 0.5, 1e308, float("inf"),
    float("nan"), "", "x", "a/b", "..", "../../etc/passwd", "\0", "\ud800", "0.5", [], [1], [[]],
    {}, {"a": 1}, {"": None}, "weight", "unit", [-1], [2**40], "a.b.c",
]  # fmt: skip
_LONG = 300
# More lists in each other than a parser follows.
_DEEP = b"[" * 100_000


def mutate_value(value: Any, draws: Random) -> Any:
    """Return a JSON value with one to four changes anywhere in it; the value itself stays."""
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        value = _change(value, draws)
    return value


def _change(value: Any, draws: Random) -> Any:
    """Return a value with one change, mostly below the top."""
    if isinstance(value, dict) and value and draws.random() < 0.9:
        key = draws.choice(list(value))
        return _changed_entry(value, key, draws)
    if isinstance(value, list) and value and draws.random() < 0.9:
        index = draws.randrange(len(value))
        return _changed_item(value, index, draws)
    return _other(value, draws)


def _changed_entry(value: dict[Any, Any], key: Any, draws: Random) -> dict[Any, Any]:
    how = draws.randrange(12)
    rest = {name: item for name, item in value.items() if name != key}
    if how == 0:
        return rest
    if how == 1:
        return {**rest, _other_text(str(key), draws): value[key]}
    if how == 2:
        return {**value, _other_text(str(key), draws): value[key]}
    if how == 3:
        return {**value, key: value[draws.choice(list(value))]}
    return {**value, key: _change(value[key], draws)}


def _changed_item(value: list[Any], index: int, draws: Random) -> list[Any]:
    how = draws.randrange(12)
    before, item, after = value[:index], value[index], value[index + 1 :]
    if how == 0:
        return [*before, *after]
    if how == 1:
        return [*value, item]
    if how == 2:
        return [*before, value[draws.randrange(len(value))], *after]
    return [*before, _change(item, draws), *after]


def _other(value: Any, draws: Random) -> Any:
    how = draws.randrange(6)
    if isinstance(value, bool) or value is None or how == 0:
        return draws.choice(VALUES)
    if isinstance(value, int):
        return draws.choice((value + 1, value - 1, -value, value * 2, value << 40, float(value)))
    if isinstance(value, float):
        return draws.choice((-value, value * 2, value + 1, 1 / value if value else 1e-300))
    if isinstance(value, str) and how < 4:
        return _other_text(value, draws)
    if how == 5:
        return _nested(draws)
    return draws.choice(VALUES)


def _nested(draws: Random) -> Any:
    """Return a value in many lists, or in few."""
    value: Any = draws.choice(VALUES)
    for _ in range(draws.choice((1, 2, _LONG))):
        value = [value] if draws.random() < 0.7 else {"a": value}
    return value


def _other_text(text: str, draws: Random) -> str:
    how = draws.randrange(7)
    place = draws.randrange(len(text) + 1)
    if how == 0:
        return (
            text[:place] + draws.choice(("", ".", "/", "\0", "é", " ", "..", "\n")) + text[place:]
        )
    if how == 1:
        return text[:place] + text[place + 1 :]
    if how == 2:
        return text * 2
    if how == 3:
        return text.upper()
    if how == 4 and "." in text:
        parts = text.split(".")
        draws.shuffle(parts)
        return ".".join(parts)
    if how == 5:
        return text * draws.choice((0, 1, _LONG))
    return str(draws.choice(VALUES))


def mutate_bytes(content: bytes, draws: Random) -> bytes:
    """Return bytes with a few changed, left out, doubled or moved."""
    changed = bytearray(content)
    for _ in range(draws.choice((1, 1, 2, 4, 8))):
        place = draws.randrange(len(changed) + 1)
        size = draws.choice((1, 1, 2, 4, 8, 100))
        how = draws.randrange(6)
        if how == 0:
            del changed[place : place + size]
        elif how == 1:
            changed[place:place] = draws.randbytes(size)
        elif how == 2:
            changed[place:place] = changed[place : place + size]
        elif how == 3:
            changed[place : place + size] = bytes(len(changed[place : place + size]))
        elif how == 4:
            del changed[place:]
        elif place < len(changed):
            changed[place] ^= 1 << draws.randrange(8)
    return bytes(changed)


def split_safetensors(content: bytes) -> tuple[Any, bytes]:
    """Return the header and the data of a whole safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join_safetensors(header: Any, data: bytes) -> bytes:
    """Return the bytes of a safetensors file, whether or not its header fits the data."""
    text = json.dumps(header).encode(errors="replace")
    return struct.pack("<Q", len(text)) + text + data


_FLOATS = np.array([0, -1, 1e38, np.inf, np.nan, 1e-45, 3e30], "<f4")


def mutate_safetensors(content: bytes, draws: Random) -> bytes:
    """Return a safetensors file with a changed header, changed numbers, or changed bytes."""
    how = draws.randrange(6)
    if how == 0:
        return mutate_bytes(content, draws)
    header, data = split_safetensors(content)
    if how < 4:
        return join_safetensors(mutate_value(header, draws), data)
    place = 4 * draws.randrange(max(1, len(data) // 4))
    number = _FLOATS[draws.randrange(len(_FLOATS))].tobytes()
    return join_safetensors(header, data[:place] + number + data[place + 4 :])


def mutate_json(content: bytes, draws: Random) -> bytes:
    """Return the JSON of a changed value, or changed bytes."""
    if draws.random() < 0.005:
        return _DEEP
    if draws.random() < 0.15:
        return mutate_bytes(content, draws)
    return json.dumps(mutate_value(json.loads(content), draws)).encode()


def mutate_lines(content: bytes, draws: Random) -> bytes:
    """Return lines of JSON with one line changed, or changed bytes."""
    if draws.random() < 0.15:
        return mutate_bytes(content, draws)
    lines = content.splitlines(keepends=True)
    index = draws.randrange(len(lines))
    if draws.random() < 0.005:
        return b"".join((*lines[:index], _DEEP, b"\n", *lines[index:]))
    lines[index] = json.dumps(mutate_value(json.loads(lines[index]), draws)).encode() + b"\n"
    return b"".join(lines)


Mutate = Callable[[bytes, Random], bytes]
