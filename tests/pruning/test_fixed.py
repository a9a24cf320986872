"""A loop of one's own fixes the pattern of a patched model, and trains on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hf_td import anneal, fix_pattern, patch_model, prune_model, unpatch_model
from hf_td.pruning import keep_pruned
from tests.tiny import tiny_inputs, tiny_model

UPDATES = 6


def trained(model: Any, optimizer: Any, updates: Any, **fixed: Any) -> list[int]:
    """Train, fixing the pattern half-way; return the zeros of a layer after each update."""
    zeros = []
    for update in updates:
        if update == UPDATES // 2:
            fix_pattern(model, optimizer=optimizer, **fixed)
        anneal(model.train(), update / UPDATES, update)
        model(**tiny_inputs(model)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        zeros.append(int((model.bert.encoder.layer[0].output.dense.weight == 0).sum()))
    return zeros


@pytest.mark.parametrize("kind", ["AdamW", "RMSprop", "SGD"])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_zeros_stay_whatever_the_optimiser_remembers(kind, level):
    model = patch_model(tiny_model("bert"), level=level, targeting=0.5)
    momentum = {} if kind == "AdamW" else {"momentum": 0.9}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=1e-2, **momentum)
    zeros = trained(model, optimizer, range(UPDATES), sparsity=0.5)
    assert max(zeros[: UPDATES // 2]) == 0
    assert set(zeros[UPDATES // 2 :]) == {zeros[-1]}
    assert zeros[-1] > 0


def test_without_the_optimiser_its_momentum_fills_zeros():
    model: Any = patch_model(tiny_model("bert"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trained(model, optimizer, range(UPDATES // 2))
    prune_model(model, 0.5)
    weight = model.bert.encoder.layer[0].output.dense.weight
    before = int((weight == 0).sum())
    with keep_pruned(model):
        model(**tiny_inputs(model)).logits.square().mean().backward()
        optimizer.step()
    assert int((weight == 0).sum()) < before / 2


def test_a_loop_that_forgets_to_fix_is_told_so():
    model = patch_model(tiny_model("bert"), fixed_sparsity=0.5, fixed_from=0.5)
    anneal(model, 0.49)
    with pytest.raises(ValueError, match=r"Call fix_pattern\(model, optimizer=optimizer\)"):
        anneal(model, 0.5)
    handle = fix_pattern(model, optimizer=None)
    assert anneal(model, 0.5) == (0.0, 0.0)
    with pytest.raises(ValueError, match="fixed already"):
        fix_pattern(model, optimizer=None)
    unpatch_model(model)
    assert not handle.active


def test_what_cannot_be_fixed_is_refused():
    with pytest.raises(ValueError, match="for a patched model, and BertFor"):
        fix_pattern(tiny_model("bert"), 0.5, optimizer=None)
    model = patch_model(tiny_model("bert"))
    with pytest.raises(ValueError, match="have no fixed_sparsity"):
        fix_pattern(model, optimizer=None)
    optimizer = torch.optim.SGD(model.parameters())
    weight: Any = model.bert.encoder.layer[0].output.dense.weight  # type: ignore[attr-defined]
    optimizer.state[weight]["packed"] = torch.zeros(weight.shape, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"SGD keeps packed as torch\.uint8"):
        fix_pattern(model, 0.5, optimizer=optimizer)


def test_a_copy_keeps_the_zeros_too():
    model: Any = patch_model(tiny_model("bert"), targeting=0.5)
    trained(model, torch.optim.AdamW(model.parameters(), lr=1e-2), range(4), sparsity=0.5)
    twin = copy.deepcopy(model)
    before = {n: p == 0 for n, p in twin.named_parameters() if "layer" in n and p.dim() > 1}
    trained(twin, torch.optim.AdamW(twin.parameters(), lr=1e-2), range(4, UPDATES))
    assert sum(int(mask.sum()) for mask in before.values()) > 1000
    now = dict(twin.named_parameters())
    assert all(torch.equal(now[name] == 0, mask) for name, mask in before.items())
