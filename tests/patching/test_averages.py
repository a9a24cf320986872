"""Activations are measured in the updates that are due, and averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hf_td import anneal
from hf_td.ranking.activations import INTERVAL
from tests.patching.models import (
    MEASURED,
    Model,
    averages,
    every_level,
    patch_of,
    patched,
    run,
    sums,
)


def recorded(model: Model, inputs: dict[str, list[Tensor]]) -> list[Any]:
    """Return hooks that record the inputs of each site."""
    return [
        site.layer.register_forward_hook(
            lambda _, args, __, name=site.name: inputs.setdefault(name, []).append(args[0].detach())
        )
        for site in patch_of(model).sites
    ]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@every_level
def test_averages_equal_those_of_a_slow_computation(family, level):
    model = patched(family, **{**MEASURED, "level": level})
    expected: dict[str, Tensor] = {}
    for update in range(2 * INTERVAL):
        anneal(model, 1.0, update)
        assert not any(m._forward_pre_hooks for m in model.modules() if m is not model)
        seen: dict[str, list[Tensor]] = {}
        hooks = recorded(model, seen)
        before = sums(model)
        run(model, batches=2)
        for hook in hooks:
            hook.remove()
        if update % INTERVAL:
            assert_close(sums(model), before, rtol=0, atol=0)
            continue
        for name, inputs in seen.items():
            rows = torch.cat([x.reshape(-1, x.shape[-1])[::13] for x in inputs])
            mean = torch.stack([row.square() for row in rows]).sum(0) / len(rows)
            expected[name] = 0.9 * expected[name] + 0.1 * mean if name in expected else mean
    patch_of(model).update_averages()
    assert_close(averages(model), expected)
    assert expected.keys() == {site.name for site in patch_of(model).sites}
