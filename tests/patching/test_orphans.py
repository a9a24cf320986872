"""Targeted layers whose patch belongs to a model around them are refused, not ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hf_td import anneal, compact_model, patch_model, prune_model, read_anatomy, unpatch_model
from tests.experts.mixtures import mixture
from tests.tiny import tiny_inputs, tiny_model

ORPHANS = "are targeted, such as .*, by the patch of a model around it"


@pytest.mark.parametrize(
    "use",
    [
        lambda part: anneal(part, 0.0),
        unpatch_model,
        patch_model,
        lambda part: prune_model(part, 0.5),
        compact_model,
    ],
)
def test_a_part_of_a_patched_model_is_refused(use):
    model: Any = patch_model(tiny_model("bert"), level="unit", importance="magnitude")
    with pytest.raises(ValueError, match=ORPHANS):
        use(model.bert)
    unpatch_model(model)
    assert prune_model(model.bert, 0.5, level="unit").sparsity == pytest.approx(0.5, abs=0.05)


def test_a_patched_model_without_its_wrapper_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query", "value"])
    model = patch_model(peft.get_peft_model(tiny_model("bert"), config), level="weight")
    with pytest.raises(ValueError, match=ORPHANS):
        prune_model(model.get_base_model(), 0.5)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_patched_mixture_in_a_wrapper_that_trains_is_read(level):
    model = patch_model(mixture("mixtral"), level=level, importance="magnitude")
    anneal(model.train(), 1.0, 0)
    model(**tiny_inputs(model))[0].sum().backward()
    names = [block.name for block in read_anatomy(model.eval()).blocks]
    wrapped = Wrapper(model).train()
    with torch.no_grad():
        found = read_anatomy(wrapped, tiny_inputs(model))
    assert len(found.blocks) == len(names)
