"""The size of an archive on disk, and the memory to save and load it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_td.hub.archive import load_archive, read_description, save_archive
from hf_td.hub.archive.codec import BITMASK, DENSE, GAPS
from tests.hub.archive.tensors import assert_same_bits, pruned


@pytest.mark.parametrize(("sparsity", "most"), [(0.5, 0.385), (0.9, 0.085)])
def test_size_of_a_pruned_weight(tmp_path: Path, sparsity: float, most: float):
    weight = pruned(4096, 4096, sparsity)
    report = save_archive({"w": weight}, tmp_path / "m.archive.safetensors")
    assert report.dense_bytes == 2 * 4096 * 4096
    assert report.ratio == report.archive_bytes / report.dense_bytes < most
    assert_same_bits(load_archive(tmp_path / "m.archive.safetensors")["w"], weight)


@pytest.mark.parametrize(("sparsity", "encoding"), [(0.0, DENSE), (0.5, BITMASK), (0.95, GAPS)])
def test_encoding_follows_the_sparsity(tmp_path: Path, sparsity: float, encoding: str):
    save_archive({"w": pruned(256, 256, sparsity)}, tmp_path / "m.archive.safetensors")
    assert read_description(tmp_path / "m.archive.safetensors").entries[0].encoding == encoding


def test_regular_zeros_take_the_bitmask(tmp_path: Path):
    weight = torch.randn(256, 256).bfloat16()
    weight[:, torch.arange(256) % 8 != 0] = 0
    report = save_archive({"w": weight}, tmp_path / "m.archive.safetensors")
    assert read_description(report.path).entries[0].encoding == BITMASK
    assert len(load_file(report.path)["w/positions"]) < 100


def test_size_of_nothing_is_no_ratio(tmp_path: Path):
    assert np.isnan(save_archive({}, tmp_path / "m.archive.safetensors").ratio)
    assert load_archive(tmp_path / "m.archive.safetensors") == {}


def test_memory_holds_a_few_tensors_beside_the_model(tmp_path: Path):
    one = 2 << 20
    state = {str(index): pruned(1024, 1024, 0.5) + 0 for index in range(12)}
    tracemalloc.start()
    save_archive(state, tmp_path / "m.archive.safetensors")
    saving = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    loaded = load_archive(tmp_path / "m.archive.safetensors")
    loading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert saving < 4 * one
    assert loading < (len(loaded) + 4) * one
