"""Checkpoints of a model that FSDP2 has sharded, and the way from there to a pruned one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
from transformers import AutoModelForCausalLM

from hf_td import (
    anneal,
    compact_model,
    export_model,
    prune_model,
    pruning_curve,
    unpatch_model,
)
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import find_activations, save_activations
from hf_td.training import save_gathered
from tests.families import TABLE
from tests.training.processes import run_in_processes
from tests.training.test_sharded import ROWS, fresh, part, shard, whole

ACTIVATION: dict[str, Any] = {"level": "weight", "importance": "activation"}
UPDATES, STOP = 12, 6


@pytest.fixture
def group(tmp_path: Path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def causal(settings: dict[str, Any]) -> Any:
    """Return a patched decoder with a head, which `generate` and every form of export need."""
    from hf_td import patch_model

    torch.manual_seed(0)
    return patch_model(AutoModelForCausalLM.from_config(TABLE["llama"].make().config), **settings)


def step(model: Any, optimizer: Any, update: int, rank: int = 0, processes: int = 1) -> None:
    anneal(model.train(), update / UPDATES, update)
    torch.manual_seed(update)
    batch = {"input_ids": torch.randint(5, 60, (ROWS, 13))}
    model(**part(batch, rank, processes))[0].float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    patch = find_patch(model)
    assert patch is not None
    patch.update_averages()


def adam(model: Any) -> torch.optim.Optimizer:
    # A large epsilon: gradients that are rounding alone make no whole steps.
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)


def test_the_gathered_model_is_pruned_and_exported_by_one_process(group, tmp_path):
    model = causal({"level": "unit", "importance": "activation", "targeting": 0.5})
    shard(model)
    step(model, adam(model), 0)
    assert save_gathered(model, tmp_path / "whole")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    torch.testing.assert_close(loaded.state_dict(), whole(model), rtol=0, atol=0)
    found, expected = find_activations(loaded), find_activations(model)
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.mean_squares, expected.mean_squares, rtol=0, atol=0)
    # Without settings: those of the training, from the config.
    report = prune_model(loaded, 0.5)
    assert report.sparsity == pytest.approx(0.5, abs=0.05)
    export = export_model(loaded, tmp_path / "small", check=False, multiple_of=1)
    assert export.parameters < sum(p.numel() for p in model.parameters())


def test_a_gathered_model_replaces_no_folder(group, tmp_path):
    model = causal({"level": "unit"})
    shard(model)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "kept").touch()
    with pytest.raises(FileExistsError):
        save_gathered(model, tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["kept"]


def test_an_ordinary_model_is_saved_without_processes(tmp_path):
    model = causal({"level": "unit"})
    assert save_gathered(model, tmp_path / "whole")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "act",
    [
        lambda model, folder: prune_model(model, 0.5),
        lambda model, folder: compact_model(model),
        lambda model, folder: export_model(model, folder),
        lambda model, folder: pruning_curve(model, [0.5], lambda m: {"loss": 0.0}),
        lambda model, folder: unpatch_model(model),
    ],
    ids=["prune_model", "compact_model", "export_model", "pruning_curve", "unpatch_model"],
)
def test_what_needs_whole_weights_says_so(act, group, tmp_path):
    model = causal({"level": "unit"})
    shard(model)
    with pytest.raises(TypeError, match=r"sharded by FSDP2.*save_gathered"):
        act(model, tmp_path / "export")
    assert find_patch(model) is not None  # left as it was
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "options",
    [
        # Pinned memory needs a GPU.
        {"offload_policy": CPUOffloadPolicy(pin_memory=False)},
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)},
    ],
    ids=["offload", "reduce_dtype"],
)
def test_policies_of_fsdp_train_the_same(options, group):
    models = [fresh("llama", ACTIVATION) for _ in range(2)]
    shard(models[1], **options)
    for model in models:
        optimizer = adam(model)
        for update in range(3):
            step(model, optimizer, update)
    torch.testing.assert_close(whole(models[1]), models[0].state_dict(), rtol=1e-5, atol=1e-6)


def save_sharded(model: Any, optimizer: Any, rank: int, folder: Path) -> None:
    weights, states = get_state_dict(model, optimizer)
    state_dict_saver.save({"model": weights, "optimizer": states}, checkpoint_id=folder / "sharded")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full, _ = get_state_dict(model, optimizer, options=options)
    if rank == 0:
        torch.save(full, folder / "full.pt")
        save_activations(model, folder)


def load_sharded(model: Any, optimizer: Any, folder: Path) -> None:
    weights, states = get_state_dict(model, optimizer)
    state_dict_loader.load(
        {"model": weights, "optimizer": states}, checkpoint_id=folder / "sharded"
    )
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=states)
    patch = find_patch(model)
    assert patch is not None
    assert patch.resume(folder)


def run(model: Any, updates: range, rank: int = 0, processes: int = 1, optimizer: Any = None):
    optimizer = optimizer or adam(model)
    for update in updates:
        step(model, optimizer, update, rank, processes)
    return optimizer


def train_and_save(rank: int, folder: Path) -> None:
    model = fresh("llama", ACTIVATION)
    shard(model)
    optimizer = run(model, range(STOP), rank, distributed.get_world_size())
    save_sharded(model, optimizer, rank, folder)


def go_on(rank: int, folder: Path) -> None:
    model = fresh("llama", ACTIVATION)
    with torch.no_grad():
        for parameter in model.parameters():  # all of it has to come from the checkpoint
            parameter.zero_()
    shard(model)
    optimizer = adam(model)
    load_sharded(model, optimizer, folder)
    processes = distributed.get_world_size()
    run(model, range(STOP, UPDATES), rank, processes, optimizer)
    final = whole(model)
    if rank == 0:
        torch.save(final, folder / f"{processes}.pt")
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    full = torch.load(folder / "full.pt") if rank == 0 else {}
    set_model_state_dict(model, full, options=options)
    loaded = whole(model)
    if rank == 0:
        torch.testing.assert_close(loaded, torch.load(folder / "full.pt"), rtol=0, atol=0)


@pytest.mark.slow
def test_another_number_of_processes_resumes_the_trajectory(tmp_path):
    alone = fresh("llama", ACTIVATION)
    run(alone, range(UPDATES))
    run_in_processes(train_and_save, 2, tmp_path)
    for processes in (2, 4):
        run_in_processes(go_on, processes, tmp_path)
        found = torch.load(tmp_path / f"{processes}.pt")
        torch.testing.assert_close(found, alone.state_dict(), rtol=1e-4, atol=1e-5)


def gather_and_part(rank: int, folder: Path) -> None:
    model = causal({"level": "unit", "targeting": 0.5})
    shard(model)
    step(model, adam(model), 0, rank, distributed.get_world_size())
    try:
        save_gathered(model, folder / "taken")
    except (FileExistsError, RuntimeError) as error:
        (folder / f"error{rank}").write_text(f"{type(error).__name__}: {error}")
    first = save_gathered(model, folder / "whole")
    distributed.destroy_process_group()  # what comes needs no other process
    if first:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder / "whole")
        prune_model(loaded, 0.5)
        compact_model(loaded, multiple_of=1)
        loaded.save_pretrained(folder / "compact")
    else:
        (folder / "left").touch()
    distributed.init_process_group(  # for the end of the helper
        "gloo", init_method=f"file://{folder}/end", rank=rank, world_size=2
    )


@pytest.mark.slow
def test_no_process_waits_for_the_one_that_prunes(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").touch()
    run_in_processes(gather_and_part, 2, tmp_path)
    assert (tmp_path / "error0").read_text().startswith("FileExistsError")
    assert "first process could not write" in (tmp_path / "error1").read_text()
    assert (tmp_path / "left").exists()
    dense: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    small: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "compact")
    assert small.num_parameters() < dense.num_parameters()
