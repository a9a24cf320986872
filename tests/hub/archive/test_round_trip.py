"""Every bit of every tensor comes back from an archive, and tied tensors stay tied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from hf_td.hub.archive import load_archive, read_description, save_archive
from hf_td.hub.archive.codec import BITMASK, GAPS, Coded, decode, encode
from hf_td.hub.archive.description import DTYPES
from tests.hub.archive.tensors import BLOCK, assert_same_bits, compress


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """Draw bit patterns; zeros, lone sign bits and all ones (a NaN) are more likely than others."""
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
    path = tmp_path_factory.mktemp("archive") / "model.archive.safetensors"
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
    save_archive({"w": tensor}, tmp_path / "m.archive.safetensors")
    assert_same_bits(load_archive(tmp_path / "m.archive.safetensors")["w"], tensor)


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
    save_archive({"w": tensor}, tmp_path / "m.archive.safetensors")
    assert read_description(tmp_path / "m.archive.safetensors").entries[0].values == 1
    assert torch.signbit(
        load_archive(tmp_path / "m.archive.safetensors")["w"]
    ).nonzero().tolist() == [[3]]


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
    save_archive({"w": tensor}, tmp_path / "m.archive.safetensors")
    plain = tensor.detach().resolve_conj().resolve_neg()
    assert_same_bits(load_archive(tmp_path / "m.archive.safetensors")["w"], plain)


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path: Path):
    tied = torch.randn(100, 100)
    state = {"embed": tied, "other": tied.clone(), "head": tied.view_as(tied)}
    report = save_archive(state, tmp_path / "m.archive.safetensors")
    header = read_description(tmp_path / "m.archive.safetensors")
    loaded = load_archive(tmp_path / "m.archive.safetensors")
    assert [entry.names for entry in header.entries] == [("embed", "head"), ("other",)]
    assert (report.tensors, report.dense_bytes) == (3, 2 * 40_000)
    assert loaded["embed"] is loaded["head"]
    assert loaded["embed"] is not loaded["other"]


def test_views_that_differ_are_not_tied(tmp_path: Path):
    base = torch.randn(4, 4, dtype=torch.complex64)
    state = {"a": base, "b": base.t(), "c": base[:2], "d": base.conj(), "e": base.real}
    state |= {"empty": torch.empty(0), "nothing": torch.empty(0)}
    save_archive(state, tmp_path / "m.archive.safetensors")
    loaded = load_archive(tmp_path / "m.archive.safetensors")
    assert len(read_description(tmp_path / "m.archive.safetensors").entries) == len(state)
    for name, tensor in state.items():
        assert_same_bits(loaded[name], tensor.resolve_conj())


class Lazy(Mapping[str, Tensor]):
    """A mapping that makes each tensor at its look-up, so that addresses may be used again."""

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
    save_archive(state, tmp_path / "m.archive.safetensors")
    for name, tensor in load_archive(tmp_path / "m.archive.safetensors").items():
        assert_same_bits(tensor, state[name])


def test_other_loaders_take_no_archive_for_weights(tmp_path: Path):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    config.save_pretrained(tmp_path)
    path = tmp_path / "model.archive.safetensors"
    save_archive(BertModel(config).state_dict(), path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        BertModel.from_pretrained(tmp_path)
    for loaded in (load_file(path), torch.load(path, weights_only=True)):
        assert {tensor.dtype for tensor in loaded.values()} == {torch.uint8}


def test_a_model_comes_back(tmp_path: Path):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    model, other = BertModel(config), BertModel(config)
    save_archive(model.state_dict(), tmp_path / "model.archive.safetensors")
    other.load_state_dict(load_archive(tmp_path / "model.archive.safetensors", "cpu"))
    for (name, after), (_, before) in zip(
        other.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert_close(after, before, rtol=0, atol=0, msg=name)
