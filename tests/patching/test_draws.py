"""Draws are a function of key and position, at the rate that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from hf_td import anneal, functional, kernels
from hf_td.functional import DRAW_LEVELS, Cut, Rule
from hf_td.kernels import cpu_masking, cpu_ranking
from hf_td.patching.layers import kept
from tests.patching.models import (
    HALF,
    assert_same_masks,
    every_way,
    masks,
    patch_of,
    patched,
    train_step,
)


def mixed(word: int, low: int, high: int) -> int:
    """Return `lowbias32` of a word with a key, in plain Python."""
    first, second = functional.MULTIPLIERS
    word ^= low
    word = ((word ^ (word >> 16)) * first) & 0xFFFFFFFF
    word = (((word ^ (word >> 15)) + high) * second) & 0xFFFFFFFF
    return word ^ (word >> 16)


@pytest.mark.parametrize("key", [0, -1, 0x0123456789ABCDEF, -(2**63)])
def test_draws_are_a_function_of_key_and_position(key):
    draw = torch.tensor(functional.draw_of(key, 0))
    found = functional.draws((3, 5, 7), draw)
    low, high = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for position, value in enumerate(found.flatten().tolist()):
        word = mixed(position // 2, low, high)
        assert value == (word >> 16 if position % 2 else word & 0xFFFF)
    assert torch.equal(functional.draws((105,), draw), found.flatten())
    assert torch.equal(functional.draws((8, 5, 7), draw)[:3], found)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    number = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(number)


@pytest.mark.parametrize("shape", [(33, 21), (64, 32), (4, 9, 15)])
@pytest.mark.parametrize("dim", [-1, -2])
def test_a_mask_does_not_depend_on_blocks_or_threads(shape, dim, threads, monkeypatch):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rule = Rule(dim % len(shape))
    cutoff = functional.cutoffs(weight.abs(), 0.8, dim)
    draw = functional.draw_of(12345678901234, functional.drop_threshold(0.4))
    cut = Cut(cutoff, torch.tensor(draw))
    expected = functional.masked(weight, cut, rule)
    assert 0.2 < float((expected == 0).float().mean()) < 0.45
    monkeypatch.setattr(cpu_ranking, "_BLOCKS_PER_THREAD", 1)
    for block in (1, 40, 1000, 1 << 17):
        monkeypatch.setattr(cpu_masking, "_BLOCK", block)
        monkeypatch.setattr(cpu_ranking, "_BLOCK", block)
        for number in (1, 3):
            threads(number)
            assert torch.equal(kernels.masked(weight, cut, rule), expected)


@every_way
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_mask_does_not_depend_on_other_layers(family, way):
    every = patched(family, **{**HALF, **way})
    anneal(every, 1.0, 3)
    expected = masks(every)
    for name in list(expected)[:3]:
        some = patched(family, **{**HALF, **way}, include=[name])
        for parameter, other in zip(some.parameters(), every.parameters(), strict=True):
            assert torch.equal(parameter, other)
        anneal(some, 1.0, 3)
        assert_same_masks(masks(some), {name: expected[name]})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_drop_rate_is_the_share_of_dropped_candidates_and_updates_differ(rate):
    model = patched("bert", drop_rate=rate)
    found = []
    for update in range(10):
        anneal(model, 1.0, update)
        found.append(torch.cat([mask.flatten() for mask in masks(model).values()]))
    dropped = ~torch.stack(found)
    # Half of the weights are candidates; five standard deviations are allowed.
    draws = dropped.numel() / 2
    assert abs(int(dropped.sum()) - rate * draws) < 5 * (draws * rate * (1 - rate)) ** 0.5
    # Two updates drop independently.
    both = (dropped[0] & dropped[1]).sum() / (dropped.shape[1] / 2)
    assert float(both) == pytest.approx(rate**2, abs=0.03)
    neighbours = (dropped[:, ::2] & dropped[:, 1::2]).float().mean()
    assert float(neighbours) == pytest.approx((rate / 2) ** 2, abs=0.02)


def test_the_rates_0_and_1_are_exact():
    shape = (1000,)
    for rate, expected in ((0.0, 0.0), (1.0, 1.0)):
        threshold = functional.drop_threshold(rate)
        draw = torch.tensor(functional.draw_of(7, threshold))
        assert float(functional.is_drawn(shape, draw).float().mean()) == expected
    assert functional.drop_threshold(1.0) == DRAW_LEVELS


def test_the_dropped_share_equals_the_share_in_the_masks():
    model = patched("bert")
    anneal(model, 1.0, 0)
    train_step(model)
    sites = patch_of(model).sites
    dropped = sum(int((~kept(site.layer)).sum()) for site in sites)
    share = dropped / sum(site.size for site in sites)
    assert patch_of(model).dropped_share() == pytest.approx(share)
