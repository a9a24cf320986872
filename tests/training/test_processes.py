"""Processes that train together draw equal masks, and learn what one process would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from hf_td import Schedule, anneal, fix_pattern, patch_model, unpatch_model
from hf_td.modules.passing import passed_layers
from hf_td.ranking.activations import INTERVAL, find_activations
from tests.tiny import tiny_model
from tests.training.models import patch_of

UPDATES = INTERVAL + 2  # two of them are measured
PROCESSES = 2
# No multiple of the step between measured rows: processes start at different rows.
LENGTH = 11
# With updates that drop some, and dense ones.
SETTINGS: dict[str, Any] = {
    "targeting": 0.5,
    "drop_rate": 0.5,
    "targeting_schedule": Schedule(shape="linear", initial=0.5, off=0.5),
    "importance": "activation",
}


def batches() -> list[torch.Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return [
        torch.randint(5, 60, (4 * PROCESSES, LENGTH), generator=numbers) for _ in range(UPDATES)
    ]


def learn(model: Any, forward: Any, inputs: list[torch.Tensor], fixed: bool) -> set[float]:
    """Train, with the pattern fixed at last or not, and return the targetings of the updates."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5 if fixed else 0.0)
    targetings = set()
    for update, ids in enumerate(inputs):
        if fixed and update == UPDATES - 3:
            fix_pattern(model, 0.5, optimizer=optimizer)
        targetings.add(anneal(forward.train(), update / UPDATES, update).targeting)
        forward(input_ids=ids)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    anneal(forward, 1.0, UPDATES)  # the last update's activations count too
    return targetings


def fresh(level: str) -> Any:
    model = tiny_model("bert")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return patch_model(model, level=level, **SETTINGS)


def found(model: Any) -> dict[str, Any]:
    activations = find_activations(model)
    assert activations is not None
    return {"weights": model.state_dict(), "activations": activations.mean_squares}


def work(rank: int, level: str, fixed: bool, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    model = fresh(level)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    learn(model, wrapped, [ids.chunk(PROCESSES)[rank] for ids in batches()], fixed)
    torch.save(found(model), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture
def group(tmp_path: Path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_masks_and_sums_are_not_sent_in_every_forward(level):
    stock: Any = tiny_model("bert")
    stock._ddp_params_and_buffers_to_ignore = ["of.others"]
    sent = len(DistributedDataParallel(stock).modules_buffers)
    model = patch_model(stock, level=level, **SETTINGS)
    assert len(dict(model.named_buffers())) > sent
    assert len(DistributedDataParallel(model).modules_buffers) == sent
    unpatch_model(model)
    assert model._ddp_params_and_buffers_to_ignore == ["of.others"]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_two_processes_learn_what_one_does(level, fixed, tmp_path: Path):
    alone = fresh(level)
    targetings = learn(alone, alone, batches(), fixed)
    zeros = sum(int((site.layer.weight == 0).sum()) for site in patch_of(alone).sites)
    assert (zeros > 1000) == fixed
    assert 0 in targetings, "some updates are dense"
    assert len(targetings) > 1, "some are not"
    spawn(work, (level, fixed, str(tmp_path)), nprocs=PROCESSES)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, found(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("group")
def test_layers_that_are_passed_by_have_a_gradient_of_zero_for_the_others_to_wait_for():
    settings: dict[str, Any] = {"attention_level": "none", "feed_forward_level": "none"}
    model: Any = tiny_model("bert")
    patch_model(model, level="unit", layers_level="unit", targeting=0.5, **settings)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for update in range(6):
        if update == 3:
            fix_pattern(model, 0.5, optimizer=optimizer)
        anneal(model.train(), progress=update / 6, update=update)
        wrapped(input_ids=torch.randint(5, 60, (2, 7)), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    (name,) = passed_layers(model)
    layer = model.get_submodule(name)
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
