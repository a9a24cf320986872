"""Nothing of the size of a weight lives between two updates."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_td import anneal, patch_model
from tests.experts.mixtures import mixture
from tests.families import family_inputs
from tests.patching.models import (
    HALF,
    WAYS,
    patch_of,
)
from tests.tiny import tiny_inputs, tiny_model


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Return the bytes of the storages of tensors, by address."""
    found = [one.untyped_storage() for one in tensors if isinstance(one, Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.fixture
def new_objects() -> Iterator[Callable[[], list[Any]]]:
    """Return a function that finds all objects made since the start of the test."""

    def found() -> list[Any]:
        gc.collect()
        return gc.get_objects()

    gc.collect()
    gc.freeze()
    yield found
    gc.unfreeze()


def buffer_bytes(model: nn.Module) -> int:
    return sum(buffer.nbytes for buffer in model.buffers())


@pytest.mark.filterwarnings("ignore")  # from objects that the garbage collector lists
@pytest.mark.parametrize(
    "way",
    [*WAYS, {"level": "unit", "importance": "activation"}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "experts"])
def test_nothing_of_the_size_of_a_weight_lives_between_updates(kind, way, new_objects):
    if kind == "experts":
        model = mixture("mixtral")
        way = {**way, "experts_level": "none" if way.get("draw") else "unit"}
        way["attention_level"] = "none"  # its weights are as small as the cut-offs of experts
        inputs = family_inputs(model)
    else:
        model = tiny_model(kind)
        inputs = tiny_inputs(model)
    buffers, known = buffer_bytes(model), [*model.buffers(), *inputs.values()]
    patch_model(model, **{**HALF, **way})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(2):
        anneal(model.train(), 1.0, update)
        model(**inputs).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights = [site.layer.weight for site in patch_of(model).sites]
        ranked = [weight for weight in weights if weight.numel() >= 32 * 32]  # no routers
        smallest = min(weight.nbytes for weight in ranked)
        own = storages([*model.parameters(), *known])
        added = [n for where, n in storages(new_objects()).items() if where not in own]
        assert added, "cut-offs"
        assert max(added) < smallest
        assert sum(added) < sum(weight.nbytes for weight in ranked) / 4
        assert buffer_bytes(model) - buffers < sum(weight.nbytes for weight in ranked) / 8
