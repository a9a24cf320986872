"""A cut is undone: a parameter that is referenced elsewhere comes back as the same object."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_td import compact_model, prune_model
from hf_td.compaction import compact
from hf_td.compaction.surgery import without
from hf_td.compaction.undo import CutParameter
from tests.tiny import tiny_model


def gone_of(size: int, experts: int | None, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    rows = [torch.randperm(size) < size // 3 for _ in range(experts or 1)]
    return torch.stack(rows) if experts else rows[0]


@given(
    st.integers(0, 99), st.booleans(), st.booleans(), st.lists(st.sampled_from([1, 2]), max_size=2)
)
def test_a_parameter_that_nobody_holds_is_made_again(seed, stacked, pruned, dims):
    experts = 3 if stacked else None
    dims = dict.fromkeys(dim if stacked else dim - 1 for dim in dims)
    torch.manual_seed(seed)
    parameter = nn.Parameter(torch.randn(3, 6, 9) if stacked else torch.randn(6, 9))
    cuts = {dim: gone_of(parameter.shape[dim], experts, seed + dim) for dim in dims}
    smaller = parameter.detach()
    for dim, gone in cuts.items():
        if pruned:
            shape = [3 if stacked else 1, *[1] * (parameter.dim() - 1)]
            shape[dim] = -1
            parameter.data.masked_fill_(gone.view(shape), 0)
        smaller = without(smaller, dim, gone)
    before = parameter.detach().clone()
    cut = CutParameter(parameter, cuts)
    assert cut.restored(smaller) is parameter
    del parameter
    torch.testing.assert_close(cut.restored(smaller).detach(), before, rtol=0, atol=0)


def test_a_refused_cut_leaves_a_model_that_nobody_holds_as_it_was(monkeypatch):
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(compact, "compare", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="was left as it was: division by zero"):
        compact_model(model)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
