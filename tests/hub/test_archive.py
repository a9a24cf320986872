from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from hf_td.functional import candidate_mask
from hf_td.hub.archive import load_archive, read_archive_header, save_archive
from hf_td.hub.archive.codec import BITMASK, DENSE, ENCODINGS, GAPS, Coded, decode, encode
from hf_td.hub.archive.header import DTYPES, MAGIC, PREAMBLE, VERSION, digest_of

BLOCK = 1 << 16


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert_close(bits(actual), bits(expected), rtol=0, atol=0)


def pruned(rows: int, columns: int, sparsity: float, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02
    return weight.masked_fill(candidate_mask(weight.abs(), sparsity), 0).to(dtype)


def compress(data: bytes | np.ndarray, **options: Any) -> bytes:
    raw = data if isinstance(data, bytes) else data.tobytes()
    return zstandard.ZstdCompressor(level=1, **options).compress(raw)


# Round trips


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """Any bit patterns, with zeros, lone sign bits and all ones (a NaN) more often than chance."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = 1 if dtype == torch.bool else (1 << 8 * dtype.itemsize) - 1
    words = random.integers(0, top, np.prod(shape, dtype=int), f"u{dtype.itemsize}", endpoint=True)
    special = random.choice(np.array([0, 1, (top + 1) // 2, top], words.dtype), words.size)
    words = np.where(random.random(words.size) < 0.1, special, words)
    words[random.random(words.size) < draw(st.sampled_from([0, 0.05, 0.5, 0.9, 1]))] = 0
    return torch.from_numpy(words.view("u1")).view(dtype).reshape(shape)


@given(st.lists(any_tensor(), max_size=4))
def test_every_bit_comes_back(tmp_path_factory: pytest.TempPathFactory, tensors: list[Tensor]):
    path = tmp_path_factory.mktemp("archive") / "model.hftd"
    state = {f"layer.{index}.weight": tensor for index, tensor in enumerate(tensors)}
    report = save_archive(state, path, metadata={"step": "3"})
    loaded = load_archive(path)
    assert list(loaded) == list(state)
    assert report.tensors == len(tensors)
    assert report.archive_bytes == path.stat().st_size
    for name, tensor in state.items():
        assert_same_bits(loaded[name], tensor)


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.95])
def test_every_dtype_over_several_blocks(tmp_path: Path, dtype: torch.dtype, sparsity: float):
    random = np.random.default_rng(0)
    data = random.integers(0, 2 if dtype == torch.bool else 256, (90_000, dtype.itemsize), "u1")
    data[random.random(len(data)) < sparsity] = 0
    tensor = torch.from_numpy(data).view(dtype).reshape(300, 300)
    save_archive({"w": tensor}, tmp_path / "m.hftd")
    assert_same_bits(load_archive(tmp_path / "m.hftd")["w"], tensor)


@given(
    size=st.sampled_from([1, 8, 255, 256, 257, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3]),
    seed=st.integers(0, 1000),
    count=st.sampled_from([0, 1, 2, 5, 300, 40_000]),
)
def test_codec_at_the_edges_of_gaps_and_blocks(size: int, seed: int, count: int):
    random = np.random.default_rng(seed)
    words = np.zeros(size, np.uint16)
    words[random.integers(0, size, count)] = random.integers(1, 1 << 16, count)
    words[-1] = seed % 2
    np.testing.assert_array_equal(decode(encode(words), size, 2), words)


@pytest.mark.parametrize("zeros", [0, 1, 254, 255, 256, 509, 510, 511, BLOCK, 2 * BLOCK + 5])
def test_gaps_of_every_length(zeros: int):
    words = np.zeros(4 * BLOCK, np.uint8)
    words[[zeros, zeros + 1]] = 7
    coded = encode(words)
    np.testing.assert_array_equal(decode(coded, words.size, 1), words)


def test_gaps_and_bitmask_describe_the_same_words():
    words = np.zeros(1000, np.uint16)
    words[[3, 400, 999]] = [1, 2, 3]
    gaps = np.array([3, 255, 141, 255, 255, 88], np.uint8)
    planes = encode(np.array([1, 2, 3], np.uint16)).streams
    for encoding, positions in ((GAPS, gaps), (BITMASK, np.packbits(words != 0))):
        coded = Coded(encoding=encoding, values=3, streams=[compress(positions), *planes])
        np.testing.assert_array_equal(decode(coded, 1000, 2), words)


def test_only_the_pattern_of_plus_zero_is_pruned(tmp_path: Path):
    tensor = torch.zeros(64)
    tensor[3] = -0.0
    save_archive({"w": tensor}, tmp_path / "m.hftd")
    assert read_archive_header(tmp_path / "m.hftd").entries[0].values == 1
    assert torch.signbit(load_archive(tmp_path / "m.hftd")["w"]).nonzero().tolist() == [[3]]


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.t(),
        lambda base: base[::2, 1:],
        lambda base: base[0, 0],
        lambda base: base[:1].expand(7, -1),
        lambda base: base.to(torch.complex64).mul(1j).conj(),
        lambda base: base.to(torch.complex64).mul(1j).conj().imag,
        lambda base: nn.Parameter(base),
    ],
    ids=["transposed", "strided", "scalar", "expanded", "conjugate", "negative", "parameter"],
)
def test_views_are_saved_as_what_they_show(tmp_path: Path, view: Callable[[Tensor], Tensor]):
    tensor = view(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    save_archive({"w": tensor}, tmp_path / "m.hftd")
    plain = tensor.detach().resolve_conj().resolve_neg()
    assert_same_bits(load_archive(tmp_path / "m.hftd")["w"], plain)


# Tied tensors


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path: Path):
    tied = torch.randn(100, 100)
    state = {"embed": tied, "other": tied.clone(), "head": tied.view_as(tied)}
    report = save_archive(state, tmp_path / "m.hftd")
    header = read_archive_header(tmp_path / "m.hftd")
    loaded = load_archive(tmp_path / "m.hftd")
    assert [entry.names for entry in header.entries] == [("embed", "head"), ("other",)]
    assert (report.tensors, report.dense_bytes) == (3, 2 * 40_000)
    assert loaded["embed"] is loaded["head"]
    assert loaded["embed"] is not loaded["other"]


def test_views_that_differ_are_not_tied(tmp_path: Path):
    base = torch.randn(4, 4, dtype=torch.complex64)
    state = {"a": base, "b": base.t(), "c": base[:2], "d": base.conj(), "e": base.real}
    state |= {"empty": torch.empty(0), "nothing": torch.empty(0)}
    save_archive(state, tmp_path / "m.hftd")
    loaded = load_archive(tmp_path / "m.hftd")
    assert len(read_archive_header(tmp_path / "m.hftd").entries) == len(state)
    for name, tensor in state.items():
        assert_same_bits(loaded[name], tensor.resolve_conj())


class Lazy(Mapping[str, Tensor]):
    """Makes its tensors when they are asked for, so that addresses may be used again."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]):
        self.makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def test_tensors_that_share_an_address_one_after_the_other_are_not_tied(tmp_path: Path):
    state = Lazy({str(i): lambda i=i: torch.full((1000,), float(i)) for i in range(20)})
    save_archive(state, tmp_path / "m.hftd")
    for name, tensor in load_archive(tmp_path / "m.hftd").items():
        assert_same_bits(tensor, state[name])


# Size and memory


@pytest.mark.parametrize(("sparsity", "most"), [(0.5, 0.385), (0.9, 0.085)])
def test_size_of_a_pruned_weight(tmp_path: Path, sparsity: float, most: float):
    weight = pruned(4096, 4096, sparsity)
    report = save_archive({"w": weight}, tmp_path / "m.hftd")
    assert report.dense_bytes == 2 * 4096 * 4096
    assert report.ratio == report.archive_bytes / report.dense_bytes < most
    assert_same_bits(load_archive(tmp_path / "m.hftd")["w"], weight)


@pytest.mark.parametrize(("sparsity", "encoding"), [(0.0, DENSE), (0.5, BITMASK), (0.95, GAPS)])
def test_encoding_follows_the_sparsity(tmp_path: Path, sparsity: float, encoding: str):
    save_archive({"w": pruned(256, 256, sparsity)}, tmp_path / "m.hftd")
    assert read_archive_header(tmp_path / "m.hftd").entries[0].encoding == encoding


def test_regular_zeros_take_the_bitmask(tmp_path: Path):
    weight = torch.randn(256, 256).bfloat16()
    weight[:, torch.arange(256) % 8 != 0] = 0
    report = save_archive({"w": weight}, tmp_path / "m.hftd")
    entry = read_archive_header(report.path).entries[0]
    assert entry.streams[0] < 100


def test_size_of_nothing_is_no_ratio(tmp_path: Path):
    assert np.isnan(save_archive({}, tmp_path / "m.hftd").ratio)
    assert load_archive(tmp_path / "m.hftd") == {}


def test_memory_holds_a_few_tensors_beside_the_model(tmp_path: Path):
    one = 2 << 20
    state = {str(index): pruned(1024, 1024, 0.5) + 0 for index in range(12)}
    tracemalloc.start()
    save_archive(state, tmp_path / "m.hftd")
    saving = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    loaded = load_archive(tmp_path / "m.hftd")
    loading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert saving < 4 * one
    assert loading < (len(loaded) + 4) * one


# What is refused when saving


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "\ud800"])
def test_names_that_could_be_paths_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="a tensor's name should be printable"):
        save_archive({name: torch.ones(2)}, tmp_path / "m.hftd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.safetensors", "pytorch_model.bin", "m", ".hftd"])
def test_only_the_suffix_of_archives_is_written(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"path of an archive should be \*\.hftd"):
        save_archive({}, tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.ones(2, dtype=torch.complex128), "tensor 'bad': its dtype should be one of bool"),
        (torch.ones(2, device="meta"), "tensor 'bad': its device should be one with data"),
        (torch.eye(2).to_sparse(), "tensor 'bad': its layout should be torch.strided"),
        ([1, 2], "tensor 'bad': it should be a tensor"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, tensor: Any, match: str):
    path = tmp_path / "m.hftd"
    save_archive({"w": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=match):
        save_archive({"good": torch.randn(1000), "bad": tensor}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, ["a"]])
def test_metadata_is_strings(tmp_path: Path, metadata: Any):
    with pytest.raises(ValueError, match="metadata should be a mapping of strings to strings"):
        save_archive({}, tmp_path / "m.hftd", metadata=metadata)


def test_metadata_comes_back(tmp_path: Path):
    save_archive({}, tmp_path / "m.hftd", metadata={"sparsity": "0.9", "Ü": "\ud800"})
    assert read_archive_header(tmp_path / "m.hftd").metadata == {"sparsity": "0.9", "Ü": "\ud800"}


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("existed", [False, True])
def test_a_killed_write_leaves_the_old_file_or_none(tmp_path: Path, existed: bool):
    path = tmp_path / "m.hftd"
    if existed:
        save_archive({"w": torch.ones(3)}, path)
    before = path.read_bytes() if existed else None
    program = """
import os, signal, sys, torch
from hf_td.hub.archive import save_archive
class Deadly(dict):
    def items(self):
        yield "w", torch.randn(1 << 20)
        os.kill(os.getpid(), signal.SIGKILL)
save_archive(Deadly(w=torch.ones(1)), sys.argv[1])
"""
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [file.suffix for file in tmp_path.iterdir() if file != path] == [".tmp"]
    assert (path.read_bytes() if path.exists() else None) == before


# Nothing else takes an archive for weights


def test_other_loaders_refuse_an_archive(tmp_path: Path):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    config.save_pretrained(tmp_path)
    path = tmp_path / "model.hftd"
    save_archive(BertModel(config).state_dict(), path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        BertModel.from_pretrained(tmp_path)
    with pytest.raises(Exception, match="header"):
        load_file(path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)


def test_a_model_comes_back(tmp_path: Path):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    model, other = BertModel(config), BertModel(config)
    save_archive(model.state_dict(), tmp_path / "model.hftd")
    other.load_state_dict(load_archive(tmp_path / "model.hftd", "cpu"))
    for (name, after), (_, before) in zip(
        other.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert_close(after, before, rtol=0, atol=0, msg=name)


# Corruption


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with every encoding: the first tensor by gaps."""
    path = tmp_path / "model.hftd"
    state = {"gaps": pruned(16, 64, 0.95), "mask": pruned(4, 16, 0.5), "dense": torch.randn(5)}
    save_archive(state, path)
    encodings = [entry.encoding for entry in read_archive_header(path).entries]
    assert encodings == [GAPS, BITMASK, DENSE]
    return path


def overwrite(file: BinaryIO, place: int, byte: int) -> None:
    file.seek(place)
    file.write(bytes([byte]))


def test_one_changed_byte_anywhere_is_noticed(archive: Path):
    whole = archive.read_bytes()
    with archive.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            overwrite(file, place, byte ^ 0x40)
            with pytest.raises(ValueError, match=r"model\.hftd: .* should be "):
                load_archive(archive)
            overwrite(file, place, byte)
    assert archive.read_bytes() == whole


def test_one_missing_byte_anywhere_is_noticed(archive: Path):
    for length in reversed(range(archive.stat().st_size)):
        os.truncate(archive, length)
        with pytest.raises(ValueError, match=r"model\.hftd: the (preamble|header's end) should be"):
            read_archive_header(archive)


def test_trailing_bytes_are_noticed(archive: Path):
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"the header's end should be the end of the file"):
        load_archive(archive)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        (0, b"HFTDARC0", r"the magic should be b'HFTDARCH'"),
        (0, b"\x80\x04ctorch", r"the magic should be b'HFTDARCH'"),
        (1, VERSION + 1, r"the version should be 1, got 2"),
        (2, 0, r"the header's end should be the end of the file"),
        (2, 2**64 - 1, r"the header's end should be the end of the file"),
        (3, 2**64 - 1, r"the header's length should be at most 100000000"),
        (4, bytes(32), r"the header's checksum should be 0000"),
    ],
)
def test_preambles_that_are_refused(archive: Path, field: int, value: Any, match: str):
    whole = archive.read_bytes()
    fields = list(PREAMBLE.unpack_from(whole))
    fields[field] = value
    archive.write_bytes(PREAMBLE.pack(*fields) + whole[PREAMBLE.size :])
    with pytest.raises(ValueError, match=rf"model\.hftd: {match}"):
        load_archive(archive)


# Forgery: files whose checksums are right


def parts_of(path: Path) -> tuple[bytes, dict[str, Any]]:
    whole = path.read_bytes()
    offset = PREAMBLE.unpack_from(whole)[2]
    return whole[PREAMBLE.size : offset], json.loads(whole[offset:])


def forge(path: Path, streams: bytes, header: Any) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    digest = digest_of(text).digest()
    offset = PREAMBLE.size + len(streams)
    path.write_bytes(PREAMBLE.pack(MAGIC, VERSION, offset, len(text), digest) + streams + text)


def test_a_forgery_without_changes_loads(archive: Path):
    before = load_archive(archive)
    forge(archive, *parts_of(archive))
    for name, tensor in load_archive(archive).items():
        assert_same_bits(tensor, before[name])


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("names", [], "names should be a list of at least one"),
        ("names", "w", "names should be a list of at least one"),
        ("names", ["../w"], "a tensor's name should be printable, without slashes"),
        ("names", [".."], "a tensor's name should be printable, without slashes"),
        ("names", ["C:\\w"], "a tensor's name should be printable, without slashes"),
        ("names", ["a\u202eb"], "a tensor's name should be printable, without slashes"),
        ("names", [3], "a tensor's name should be printable, without slashes"),
        ("dtype", "float", "dtype should be one of bool"),
        ("dtype", "complex128", "dtype should be one of bool"),
        ("dtype", ["bool"], "dtype should be one of bool"),
        ("dtype", "float32", "streams should be 5 sizes"),
        ("encoding", "pickle", "encoding should be one of dense, bitmask, gaps"),
        ("encoding", None, "encoding should be one of dense, bitmask, gaps"),
        ("encoding", "dense", "values should be 1024 to 1024"),
        ("shape", [-16, -64], "shape should be a list of integers of at least 0"),
        ("shape", [16.0, 64], "shape should be a list of integers of at least 0"),
        ("shape", [True], "shape should be a list of integers of at least 0"),
        ("shape", 1024, "shape should be a list of integers of at least 0"),
        ("shape", [HUGE], "shape should be at most"),
        ("shape", [0, HUGE], "shape should be at most"),
        ("shape", [1] * 65, "shape should be at most 64 dimensions"),
        ("shape", [3, 3], "values should be 0 to 9"),
        ("values", -1, "values should be 0 to 1024"),
        ("values", 1025, "values should be 0 to 1024"),
        ("values", False, "values should be 0 to 1024"),
        ("values", 64.0, "values should be 0 to 1024"),
        ("streams", [], "streams should be 3 sizes"),
        ("streams", {"0": 1}, "streams should be a list"),
        ("streams", [10, 10, -5], "streams should be 3 sizes of at least 0"),
        ("streams", [10, 10, HUGE], "the sum of all stream sizes should be"),
        ("streams", [1, 1, 1], "the sum of all stream sizes should be"),
        ("digest", "0" * 63, "digest should be 64 hexadecimal digits"),
        ("digest", "Z" * 64, "digest should be 64 hexadecimal digits"),
        ("digest", None, "digest should be 64 hexadecimal digits"),
        ("code", "print", r"tensors\[0\] should be the keys"),
        ("names", ["dense"], "a tensor's name should be there once, got 'dense'"),
        ("names", ["w", "w"], "a tensor's name should be there once, got 'w'"),
    ],
)
def test_entries_that_are_refused(archive: Path, field: str, value: Any, match: str):
    streams, header = parts_of(archive)
    header["tensors"][0][field] = value
    forge(archive, streams, header)
    for read in (read_archive_header, load_archive):
        with pytest.raises(ValueError, match=rf"model\.hftd: .*{match}"):
            read(archive)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"", "the header should be JSON"),
        (b"{", "the header should be JSON"),
        (b"\xff\xfe", "the header should be JSON"),
        (b"[" * 200_000, "the header should be JSON"),
        (b"1" * 10_000, "the header should be JSON"),
        (b'{"metadata": {}, "metadata": {}, "tensors": []}', "the header should be JSON: a key"),
        ([], "the header should be a mapping"),
        ({}, "the header should be the keys"),
        ({"metadata": {}, "tensors": [], "extra": 1}, "the header should be the keys"),
        ({"metadata": {"a": {}}, "tensors": []}, "metadata should be a mapping of strings"),
        ({"metadata": {}, "tensors": {}}, "tensors should be a list"),
        ({"metadata": {}, "tensors": [3]}, r"tensors\[0\] should be a mapping"),
        ({"metadata": {}, "tensors": [{}]}, r"tensors\[0\] should be the keys"),
        ({"metadata": {}, "tensors": []}, "the sum of all stream sizes should be 4, got 0"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: Any, match: str):
    forge(tmp_path / "m.hftd", b"four", header)
    with pytest.raises(ValueError, match=rf"m\.hftd: {match}"):
        read_archive_header(tmp_path / "m.hftd")


def forge_tensor(path: Path, coded: Coded, shape: list[int], dtype: str = "uint8") -> None:
    streams = b"".join(coded.streams)
    entry = {
        "names": ["w"],
        "dtype": dtype,
        "shape": shape,
        "encoding": coded.encoding,
        "values": coded.values,
        "streams": [len(stream) for stream in coded.streams],
        "digest": digest_of(streams).hexdigest(),
    }
    forge(path, streams, {"metadata": {}, "tensors": [entry]})


# Eight bytes with ones at 1 and 6.
ONES = compress(b"\x01\x01")
FRAME = compress(b"\1")
STREAMS_THAT_ARE_REFUSED = {
    "not zstd": (BITMASK, 2, [b"nonsense", ONES], "positions should be a zstd frame"),
    "empty": (BITMASK, 2, [b"", ONES], "positions should be a zstd frame"),
    "cut": (BITMASK, 2, [compress(b"\x42"), ONES[:-1]], "byte plane 0 should be a zstd frame"),
    "two frames": (DENSE, 8, [compress(b"8" * 8) + FRAME], "byte plane 0 should be a zstd frame"),
    "size unknown": (
        DENSE,
        8,
        [compress(b"8" * 8, write_content_size=False)],
        "byte plane 0 should be 8 bytes",
    ),
    "long plane": (DENSE, 8, [compress(b"9" * 9)], "byte plane 0 should be 8 bytes, got 9"),
    "short plane": (DENSE, 8, [compress(b"7" * 7)], "byte plane 0 should be 8 bytes, got 7"),
    "long mask": (BITMASK, 2, [compress(b"\x42\0"), ONES], "positions should be 1 bytes, got 2"),
    "few bits": (BITMASK, 2, [compress(b"\x02"), ONES], "should be 2 positions, got 1"),
    "many bits": (BITMASK, 2, [compress(b"\x07"), ONES], "should be 2 positions, got 3"),
    "long gaps": (GAPS, 2, [compress(b"\1\1\1"), ONES], "positions should be 2 bytes, got 3"),
    "short gaps": (GAPS, 2, [FRAME, ONES], "positions should be 2 bytes, got 1"),
    "no gaps": (GAPS, 2, [compress(b"\xff\xff"), ONES], "should be 2 positions, got 0"),
    "gaps too far": (GAPS, 2, [compress(b"\1\6"), ONES], "should be positions below 8, got 8"),
}


@pytest.mark.parametrize("case", STREAMS_THAT_ARE_REFUSED)
def test_streams_that_are_refused(tmp_path: Path, case: str):
    encoding, values, streams, match = STREAMS_THAT_ARE_REFUSED[case]
    path = tmp_path / "m.hftd"
    forge_tensor(path, Coded(encoding=encoding, values=values, streams=streams), [8])
    with pytest.raises(ValueError, match=rf"m\.hftd: tensor 'w': .*{match}"):
        load_archive(path)


def test_bits_behind_the_end_are_refused():
    coded = Coded(encoding=BITMASK, values=2, streams=[compress(b"\x42"), ONES])
    with pytest.raises(ValueError, match="should be positions below 6, got 6"):
        decode(coded, 6, 1)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path, encoding: str):
    bomb = compress(bytes(1 << 28))
    values = 8 if encoding == DENSE else 2
    plane = [bomb] if encoding == DENSE else [bomb, ONES]
    forge_tensor(tmp_path / "m.hftd", Coded(encoding=encoding, values=values, streams=plane), [8])
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"got {1 << 28}"):
        load_archive(tmp_path / "m.hftd")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_archive_of_zeros_beyond_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "m.hftd"
    nothing = Coded(encoding=GAPS, values=0, streams=[compress(b""), compress(b"")])
    forge_tensor(path, nothing, [1 << 40])
    assert read_archive_header(path).dense_bytes == 1 << 40
    with pytest.raises(ValueError, match="size of all tensors should be at most limit=68719476736"):
        load_archive(path)


def test_the_limit_is_the_callers(tmp_path: Path):
    path = tmp_path / "m.hftd"
    save_archive({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    assert len(load_archive(path, limit=800)) == 2
    with pytest.raises(ValueError, match="at most limit=799 bytes, got 800"):
        load_archive(path, limit=799)
