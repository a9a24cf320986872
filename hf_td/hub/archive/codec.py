"""Turns words that are often zero into byte streams that compress well, and back.

A word is the bit pattern of one element, an unsigned integer of 1, 2, 4 or 8 bytes. Words that are
not zero are written byte plane by byte plane, rotated left by one bit. The rotation puts the sign
next to the mantissa, and the exponent of a bfloat16 or float32 into a plane of its own; it is the
only part of a trained weight that is predictable. Measured on Gaussian bfloat16 with half of the
weights pruned: .061 of the dense bytes for the exponents, .073 without the rotation.

Positions are a bitmask or gaps, whichever comes out smaller. A gap is the number of zeros before
a value, one byte each; the byte 255 stands for 255 zeros with no value after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_td.extras import extra
from hf_td.hub.archive.errors import expect

with extra("hub"):
    import zstandard

Words = NDArray[Any]
Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]

DENSE, BITMASK, GAPS = "dense", "bitmask", "gaps"
ENCODINGS = (DENSE, BITMASK, GAPS)
_POSITIONS = "the stream of positions"

# Higher levels look for repetitions, which weights do not have: level 3 is slower, and saves .3 %
# of the file at 50 % sparsity and nothing at 90 %.
_LEVEL = 1
_LONG_GAP = 255
# With more than a quarter of the words kept, gaps never beat one bit for each word.
_GAPS_BELOW = 0.25
# Number of words that are coded at a time, so that they stay in the cache; a multiple of 8, for the
# bitmask. Within such a block, positions are several times faster than boolean masks.
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Coded:
    """The words of a tensor in compressed form.

    Attributes:
        encoding: one of `ENCODINGS`.
        values: number of words that are written out; with `DENSE` all of them.
        streams: the positions, unless `DENSE`, then the byte planes from the highest to the lowest.
    """

    encoding: str
    values: int
    streams: Sequence[bytes | memoryview]


def word_type(itemsize: int) -> np.dtype[Any]:
    """Return the unsigned integer type of `itemsize` bytes: 1, 2, 4 or 8."""
    return np.dtype(f"u{itemsize}")


def encode(words: Words) -> Coded:
    """Compress words of shape `(size,)`; only the word 0 counts as pruned."""
    count = int(np.count_nonzero(words))
    zero_bits = (words.size - count) * words.itemsize * 8
    if zero_bits <= words.size:  # the zeros cost less than a bitmask would
        return Coded(encoding=DENSE, values=words.size, streams=_compressed_planes(words))
    encoding, positions = _encode_positions(words, count)
    planes = _compressed_planes(_kept(words, count))
    return Coded(encoding=encoding, values=count, streams=[positions, *planes])


def decode(coded: Coded, size: int, itemsize: int) -> Words:
    """Return the words that `encode` was given, shape `(size,)`.

    Raises:
        ValueError: a stream is corrupt, or is not exactly as long as `size` and `values` demand.
    """
    values = _join(coded.streams[-itemsize:], coded.values, itemsize)
    if coded.encoding == DENSE:
        return values
    if coded.encoding == GAPS:
        least, most = coded.values, coded.values + size // _LONG_GAP
        positions = _positions_of_gaps(_decompress(coded.streams[0], least, most, _POSITIONS))
    else:
        length = -(-size // 8)
        positions = _positions_of_bitmask(_decompress(coded.streams[0], length, length, _POSITIONS))
    return _scatter(values, positions, size)


def _encode_positions(words: Words, count: int) -> tuple[str, bytes]:
    bitmask = _compress(np.packbits(words != 0))
    if count >= _GAPS_BELOW * words.size:
        return BITMASK, bitmask
    gaps = _compress(_gaps(words))
    return (GAPS, gaps) if len(gaps) < len(bitmask) else (BITMASK, bitmask)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(size, start + _BLOCK)) for start in range(0, size, _BLOCK))


def _kept(words: Words, count: int) -> Words:
    """Return the words that are not zero, shape `(count,)`."""
    values = np.empty(count, words.dtype)
    done = 0
    for block in _blocks(words.size):
        positions = np.flatnonzero(words[block])
        values[done : done + len(positions)] = words[block][positions]
        done += len(positions)
    return values


def _scatter(values: Words, positions: Iterator[Positions], size: int) -> Words:
    """Return words of shape `(size,)`: `values` at the positions, which come block by block."""
    words = np.zeros(size, values.dtype)
    done = 0
    for block in positions:
        found = done + len(block)
        expect(found <= len(values), _POSITIONS, f"{len(values)} positions", found)
        last = int(block[-1]) if len(block) else -1
        expect(last < size, _POSITIONS, f"positions below {size}", last)
        words[block] = values[done:found]
        done = found
    expect(done == len(values), _POSITIONS, f"{len(values)} positions", done)
    return words


def _positions_of_bitmask(packed: Bytes) -> Iterator[Positions]:
    for block in _blocks(8 * packed.size):
        bits = np.unpackbits(packed[block.start // 8 : block.stop // 8])
        yield np.flatnonzero(bits) + block.start


def _gaps(words: Words) -> Bytes:
    """Return the gap bytes; zeros after the last value are not written."""
    coded = []
    last = -1  # position of the last value so far, relative to the start of the block
    for block in _blocks(words.size):
        positions = np.flatnonzero(words[block])
        coded.append(_gap_bytes(np.diff(positions, prepend=last) - 1))
        last = (int(positions[-1]) if len(positions) else last) - (block.stop - block.start)
    return np.concatenate(coded)


def _gap_bytes(zeros: Positions) -> Bytes:
    """Return the gap bytes of the numbers of zeros before each value."""
    long = zeros // _LONG_GAP
    last = np.cumsum(long + 1) - 1
    coded = np.full(last[-1] + 1 if len(last) else 0, _LONG_GAP, np.uint8)
    coded[last] = zeros - long * _LONG_GAP
    return coded


def _positions_of_gaps(coded: Bytes) -> Iterator[Positions]:
    start = 0
    for block in _blocks(coded.size):
        ends = coded[block] != _LONG_GAP
        reach = start + np.cumsum(coded[block].astype(np.int64) + ends)
        yield reach[ends] - 1
        start = int(reach[-1])


def _compressed_planes(words: Words) -> list[bytes]:
    return [_compress(plane) for plane in _planes(words)]


def _planes(words: Words) -> Bytes:
    """Return the byte planes of words of shape `(n,)`, the highest first: `(itemsize, n)`."""
    bits = 8 * words.itemsize
    planes = np.empty((words.itemsize, words.size), np.uint8)
    for block in _blocks(words.size):
        rotated = (words[block] << 1) | (words[block] >> (bits - 1))
        for index, plane in enumerate(planes):
            plane[block] = rotated >> (bits - 8 - 8 * index)
    return planes


def _join(streams: Sequence[bytes | memoryview], count: int, itemsize: int) -> Words:
    """Return the words, shape `(count,)`, of their compressed planes."""
    planes = [_decompress(s, count, count, f"byte plane {i}") for i, s in enumerate(streams)]
    words = np.empty(count, word_type(itemsize))
    for block in _blocks(count):
        rotated = np.zeros(block.stop - block.start, words.dtype)
        for index, plane in enumerate(planes):
            rotated |= plane[block].astype(words.dtype) << (8 * (itemsize - 1 - index))
        words[block] = (rotated >> 1) | (rotated << (8 * itemsize - 1))
    return words


def _compress(data: Bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data.data)


def _decompress(stream: bytes | memoryview, least: int, most: int, field: str) -> Bytes:
    """Decompress a stream of `least` to `most` bytes; its length is checked before allocating."""
    try:
        length = zstandard.frame_content_size(stream)
        expected = f"{least} bytes" if least == most else f"{least} to {most} bytes"
        expect(least <= length <= most, field, expected, length)
        raw = zstandard.ZstdDecompressor().decompress(stream, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"{field} should be a zstd frame: {error}") from error
    expect(len(raw) == length, field, f"{length} bytes", len(raw))
    return np.frombuffer(raw, np.uint8)
