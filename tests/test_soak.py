"""Thousands of repetitions leave no memory behind: about two minutes of one core.

OMP_NUM_THREADS=1 python -m pytest -m slow tests/test_soak.py
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging

from hf_td import anneal, export_model, patch_model, prune_model, unpatch_model
from tests.tiny import tiny_inputs, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm"),
]

# Bytes that a repetition may leave on average.
MOST = 1024
POINTS = 20


def resident() -> int:
    """Return the bytes of this process that are in memory, without what was freed."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Draw no bars: an export would add its own each time."""
    logging.disable_progress_bar()


def slope(act: Callable[[], Any], times: int) -> float:
    """Return the bytes that a repetition adds, once caches and pools are full after a quarter."""
    places, sizes = [], []
    for index in range(times):
        act()
        if index >= times // 4 and index % (times // POINTS) == 0:
            places.append(index)
            sizes.append(resident())
    return float(np.polyfit(places, sizes, 1)[0])


def test_updates():
    model = tiny_model("bert").train()
    patch_model(model, level="unit", targeting=0.5, drop_rate=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs = tiny_inputs(model)
    update = [0]

    def act() -> None:
        anneal(model, update[0] / 5000, update[0])
        model(**inputs)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        update[0] += 1

    assert slope(act, 5000) < MOST


def test_patching_and_unpatching():
    model = tiny_model("bert")
    assert slope(lambda: unpatch_model(patch_model(model, level="unit")), 500) < MOST


def test_exports(tmp_path):
    model = tiny_model("llama")
    prune_model(model, 0.5, level="unit")

    def act() -> None:
        export_model(model, tmp_path / "x", form="compact", check=False, overwrite=True)

    assert slope(act, 200) < MOST
