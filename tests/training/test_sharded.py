"""A model that FSDP2 shards over processes learns what it learns in one process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.multiprocessing.spawn import spawn

from hf_td import (
    Schedule,
    anneal,
    compact_model,
    export_model,
    patch_model,
    prune_model,
    prune_units,
    read_anatomy,
)
from hf_td.kernels.shards import gather_rows
from hf_td.patching import shard_by_rows
from hf_td.patching.layers import kept
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import INTERVAL, find_activations
from tests.families import TABLE
from tests.tiny import tiny_model

UPDATES = INTERVAL + 2  # two of them are measured
ROWS = 4
# No multiple of the step between measured rows: processes start at different rows.
LENGTH = 11
# Updates that drop part of the candidates, and dense ones.
SETTINGS: dict[str, Any] = {
    "targeting": 0.5,
    "drop_rate": 0.5,
    "targeting_schedule": Schedule(shape="linear", initial=0.5, off=0.3),
}
LAYERS: dict[str, Any] = {"level": "unit", "layers_level": "unit"}
# What is patched how. A row is (family, settings of the patch, how it is sharded).
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "weights": ("bert", {"level": "weight", "importance": "magnitude"}, {}),
    "weights by activation": ("bert", {"level": "weight", "importance": "activation"}, {}),
    "units": ("bert", {"level": "unit", "importance": "magnitude"}, {}),
    "units by activation": ("llama", {"level": "unit", "importance": "activation"}, {}),
    "single elements of units": ("llama", {"level": "unit", "draw": "element"}, {}),
    "random weights": ("llama", {"level": "weight", "importance": "random"}, {}),
    "random units": ("llama", {"level": "unit", "importance": "random"}, {}),
    "a pattern": ("llama", {"level": "weight", "pattern": "2:4", "targeting": None}, {}),
    "weights of Conv1D": ("gpt2", {"level": "weight", "importance": "magnitude"}, {}),
    "units of Conv1D": ("gpt2", {"level": "unit", "importance": "magnitude"}, {}),
    "stacked experts": ("mixtral", {"level": "weight", "importance": "magnitude"}, {}),
    "neurons of experts": ("mixtral", {"level": "unit", "importance": "magnitude"}, {}),
    "whole experts": ("mixtral", {"level": "unit", "experts_level": "unit"}, {}),
    "whole layers": ("llama", {**LAYERS, "importance": "magnitude"}, {}),
    "whole layers by activation": ("bert", {**LAYERS, "importance": "activation"}, {}),
    "a decoder that keeps its weights": (
        "llama",
        {"level": "unit", "importance": "magnitude"},
        {"reshard_after_forward": False},
    ),
    "checkpointed activations": ("llama", {"level": "weight"}, {"checkpointing": True}),
    "micro-batches": ("llama", {"level": "weight"}, {"micro_batches": 2}),
}


def fresh(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model: Any = TABLE[family].make()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    chosen = {**SETTINGS, **settings}
    return patch_model(model, **{name: v for name, v in chosen.items() if v is not None})


def batches() -> list[dict[str, Any]]:
    every = []
    for update in range(UPDATES):
        torch.manual_seed(update)
        ids = torch.randint(5, 60, (ROWS, LENGTH))
        every.append({"input_ids": ids})
    return every


def part(batch: dict[str, Any], rank: int, parts: int) -> dict[str, Any]:
    return {name: tensor.chunk(parts)[rank] for name, tensor in batch.items()}


def learn(model: Any, micro_batches: int = 1, rank: int = 0, processes: int = 1) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, kept_shares = [], []
    for update, batch in enumerate(batches()):
        anneal(model.train(), update / UPDATES, update)
        patch = find_patch(model)
        assert patch is not None
        kept_shares.append(patch.dropped_share())
        for number in range(micro_batches):
            inputs = part(part(batch, number, micro_batches), rank, processes)
            loss = model(**inputs)[0].float().square().mean()
            (loss / micro_batches).backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    anneal(model, 1.0, UPDATES)  # the last update's activations count too
    return {"losses": losses, "dropped": kept_shares}


def shard(model: Any, checkpointing: bool = False, **options: Any) -> None:
    options.pop("micro_batches", None)
    options["shard_placement_fn"] = shard_by_rows(model)
    base = model.base_model
    stack = next(m for m in base.modules() if isinstance(m, torch.nn.ModuleList))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    for block in stack:
        fully_shard(block, **options)
    fully_shard(model, **options)


def whole(model: Any) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {n: v.full_tensor() if hasattr(v, "full_tensor") else v for n, v in state.items()}


def work(rank: int, processes: int, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    family, settings, options = CASES[name]
    model = fresh(family, settings)
    shard(model, **options)
    found = learn(model, options.get("micro_batches", 1), rank, processes)
    activations = find_activations(model)
    found |= {"weights": whole(model)}
    found["activations"] = None if activations is None else activations.mean_squares
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes"),
    [*((name, 2) for name in CASES), ("weights by activation", 4), ("units by activation", 4)],
)
def test_processes_with_shards_learn_what_one_learns(name, processes, tmp_path):
    family, settings, options = CASES[name]
    alone = fresh(family, settings)
    expected = learn(alone, options.get("micro_batches", 1))
    spawn(work, (processes, name, str(tmp_path)), nprocs=processes)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for other in found[1:]:
        torch.testing.assert_close(other["weights"], found[0]["weights"], rtol=0, atol=0)
        torch.testing.assert_close(other["activations"], found[0]["activations"], rtol=0, atol=0)
    torch.testing.assert_close(found[0]["weights"], alone.state_dict(), rtol=1e-4, atol=1e-5)
    activations = find_activations(alone)
    if activations is not None:
        torch.testing.assert_close(
            found[0]["activations"], activations.mean_squares, rtol=1e-4, atol=1e-5
        )
    shares = torch.tensor([one["dropped"] for one in found]).mean(0)
    torch.testing.assert_close(shares, torch.tensor(expected["dropped"]), rtol=0.05, atol=0.01)


@pytest.fixture
def group(tmp_path: Path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", CASES)
def test_one_process_with_all_shards_learns_the_same(name, group):
    family, settings, options = CASES[name]
    models = [fresh(family, settings) for _ in range(2)]
    shard(models[1], **options)
    found = [learn(m, options.get("micro_batches", 1)) for m in models]
    torch.testing.assert_close(whole(models[1]), models[0].state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(torch.tensor(one["losses"]) for one in found))
    torch.testing.assert_close(*(torch.tensor(one["dropped"]) for one in found))


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_mixed_precision_trains_the_kept_weights_alone(level, group):
    settings = {"level": level, "importance": "magnitude", "targeting_schedule": "constant"}
    model = fresh("llama", settings)
    shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    anneal(model.train(), 1.0, 3)
    model(**batches()[0])[0].float().square().mean().backward()
    patch = find_patch(model)
    assert patch is not None
    assert 0.1 < patch.dropped_share() < 0.5
    dropped = torch.cat(
        [
            s.layer.weight.grad.to_local()[~kept(s.layer).expand_as(s.layer.weight)]
            for s in patch.sites
        ]
    )
    # The mask is that of the rounded weights: only next to a cut-off it can differ.
    assert (dropped == 0).float().mean() > 0.98


def test_rows_of_processes_that_hold_fewer_or_none_are_joined(tmp_path):
    spawn(gather, (str(tmp_path),), nprocs=3)
    for rank in range(3):
        one, other = torch.load(tmp_path / f"{rank}.pt")
        assert one.tolist() == [[0], [1], [2], [3]]
        assert other.tolist() == [[10, 11, 12]]


def gather(rank: int, folder: str) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=3)
    mesh = init_device_mesh("cpu", (3,))
    rows = distribute_tensor(torch.arange(4.0).view(4, 1).expand(4, 5), mesh, [Shard(0)])
    columns = distribute_tensor(torch.arange(10.0, 13).expand(5, 3), mesh, [Shard(1)])
    found = [rows.to_local()[:, :1], columns.to_local()[:1]]
    torch.save(gather_rows(found, [rows, columns]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_pruning_asks_for_whole_weights(group):
    model = fresh("bert", {"level": "unit"})
    shard(model)
    with pytest.raises(TypeError, match=r"is sharded by FSDP2.*save_gathered"):
        prune_model(model, 0.5)


def test_patching_comes_before_sharding(group):
    model: Any = tiny_model("bert")
    fully_shard(model)
    with pytest.raises(TypeError, match="Patch a model before fully_shard"):
        patch_model(model)


STAGES: dict[str, Any] = {
    "read": read_anatomy,
    "patch": patch_model,
    "prune": lambda model: prune_model(model, 0.5),
    "units": lambda model: prune_units(model, {"heads": {0: [0]}}),
    "compact": compact_model,
    "export": lambda model: export_model(model, "never", check=False),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["whole", "a part", "tensor parallel"])
def test_a_model_that_was_sharded_before_is_refused_by_name(stage, how, group):
    model: Any = tiny_model("bert")
    if how == "tensor parallel":
        layer = model.bert.encoder.layer[0].intermediate
        parallelize_module(layer, group, {"dense": ColwiseParallel()})
    else:
        fully_shard(model if how == "whole" else model.bert.encoder.layer[1])
    said = "is sharded, as by a tensor-parallel plan" if how[0] == "t" else "is sharded by FSDP2"
    with pytest.raises(TypeError, match=f"BertForSequenceClassification {said}.*fully_shard"):
        STAGES[stage](model)


def test_a_model_that_fsdp_1_has_sharded_is_refused_by_name(group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(tiny_model("bert"), device_id=torch.device("cpu"))
    with pytest.raises(TypeError, match="is sharded by FSDP 1, which flattens its weights"):
        patch_model(model)


def test_rows_that_are_cut_are_refused_with_the_placement_that_works(group):
    model = fresh("gpt2", {"level": "weight"})
    fully_shard(model)
    with pytest.raises(TypeError, match=r"sharded across its inputs .*shard_by_rows"):
        anneal(model, 0.5, 1)


def test_a_tensor_parallel_plan_is_refused(group):
    model = fresh("bert", {"level": "weight"})
    layer = model.bert.encoder.layer[0].intermediate
    parallelize_module(layer, group, {"dense": ColwiseParallel()})
    with pytest.raises(TypeError, match="part of a tensor-parallel plan after patching"):
        anneal(model, 0.5, 1)


@pytest.mark.parametrize("left", [0, 24])
def test_weights_that_zero_3_or_fsdp_1_left_are_refused_by_name(left):
    model = fresh("bert", {"level": "weight"})
    layer = model.bert.encoder.layer[0].intermediate.dense
    layer.weight.data = torch.zeros(left)  # ZeRO-3 empties a weight between forwards
    with pytest.raises(TypeError, match=r"sharded after patching .*FSDP 1 and ZeRO-3.*FSDP2"):
        anneal(model, 0.5, 1)
