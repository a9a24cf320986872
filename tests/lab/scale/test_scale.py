"""Sharded training against one process, and what it takes at scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scale
import torch
from lab.scale.cases import CASES, student_of
from lab.scale.equality import compare, shard, train, train_in_processes
from lab.scale.page import last_records, updated
from lab.scale.paper import (
    FLOAT,
    RANKS,
    SIZES,
    added_traffic,
    fsdp_traffic,
    kept_bytes,
    memory,
    shapes_of,
    shapes_of_size,
)
from torch import Tensor, distributed

from hf_td import anneal
from hf_td.files import read_json_lines
from hf_td.kernels import shards
from hf_td.patching import find_patch

LAST = last_records(read_json_lines(scale.DOCS / "results" / "scale.jsonl"))
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    ("size", "parameters"), [("1B", 1_235_814_400), ("7B", 6_738_415_616), ("70B", 68_976_648_192)]
)
def test_shapes_are_those_of_published_models(size, parameters):
    assert shapes_of_size(size).parameters == parameters


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", RANKS)
def test_the_traffic_stays_under_a_thousandth(size, ranks):
    shapes = shapes_of_size(size)
    for level in ("weight", "unit"):
        added = added_traffic(shapes, ranks, level, "activation")
        assert 0 < added < 1e-3 * fsdp_traffic(shapes, ranks)


def test_memory_falls_with_the_ranks_where_it_is_sharded():
    few, many = (memory(shapes_of_size("7B"), ranks) for ranks in RANKS)
    assert few["sharded"] == 8 * many["sharded"]
    assert few["gathered"] == many["gathered"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "level"),
    [("weights, all candidates dropped", "weight"), ("units, all candidates dropped", "unit")],
)
def test_the_computed_traffic_is_what_an_update_sends(name, level, group, monkeypatch):
    model: Any = student_of(BY_NAME[name])
    shapes = shapes_of(model.config)
    shard(model)
    sent: list[int] = []
    gather = distributed.all_gather

    def counted(received: list[Tensor], part: Tensor, **options: Any) -> None:
        sent.append(part.numel() * part.element_size())
        gather(received, part, **options)

    monkeypatch.setattr(shards.distributed, "all_gather", counted)
    anneal(model.train(), 0.5, 0)
    assert sum(sent) == added_traffic(shapes, 2, level) * 2  # a rank receives half of all


def test_the_computed_memory_is_what_a_patch_keeps():
    model: Any = student_of(BY_NAME["weights by activation"])
    patch = find_patch(model)
    assert patch is not None
    assert patch.activations is not None
    anneal(model.train(), 0.0, 0)
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(input_ids=ids)
    anneal(model, 0.9, 1)  # adds the measured update to the averages
    buffers = [
        buffer
        for name, buffer in model.named_buffers()
        if name.endswith(("cutoff", "scale", "input_squares"))
    ]
    averages = patch.activations.mean_squares.values()
    kept = sum(tensor.numel() * FLOAT for tensor in (*buffers, *averages))
    assert kept == kept_bytes(shapes_of(model.config))


def test_what_differs_is_counted():
    one = {
        "losses": torch.tensor([2.0, 1.0]),
        "mask/0/a": torch.tensor([[1, 0], [1, 1]], dtype=torch.uint8),
        "weight/a": torch.tensor([[0.5, -1.0]]),
    }
    other = {name: tensor.clone() for name, tensor in one.items()}
    other["losses"][1] = 1.5
    other["mask/0/a"][1, 1] = 0
    other["weight/a"][0, 1] = -1.25
    found = compare(one, other)
    assert (found["mask_elements"], found["dropped"], found["differing"]) == (4, 1, 1)
    assert (found["loss_difference"], found["weight_difference"]) == (0.5, 0.25)
    del other["mask/0/a"]
    with pytest.raises(ValueError, match="two cases"):
        compare(one, other)


def test_the_page_is_that_of_its_lines():
    page = (scale.DOCS / "scale.md").read_text(encoding="utf-8")
    lines = read_json_lines(scale.DOCS / "results" / "scale.jsonl")
    assert updated(page, lines) == page
    with pytest.raises(ValueError, match="no <!-- memory -->"):
        updated(page.replace("<!-- memory -->", ""), lines)


@pytest.mark.parametrize("line", LAST.values(), ids=[f"{case}, {n}" for case, n in LAST])
def test_recorded_trainings_are_equal_to_rounding(line):
    assert line["differing"] == 0
    assert line["loss_difference"] < 1e-5
    assert line["weight_difference"] < 1e-5
    assert 0 < line["dropped"] < line["mask_elements"]


@pytest.mark.slow
def test_several_processes_train_as_one():
    cases = [BY_NAME["units, distilled, teacher sharded"], BY_NAME["units, LoRA adapters"]]
    for case, several in zip(cases, train_in_processes(cases, 2), strict=True):
        found = compare(train(case), several)
        assert found["differing"] == 0
        assert found["loss_difference"] < 1e-5
        assert found["weight_difference"] < 1e-5
