"""The Trainer's way to FSDP2, by accelerate: patched, sharded, trained, saved, resumed.

accelerate knows FSDP on accelerators alone: on a CPU it trains with DistributedDataParallel and
says nothing. Here processes on the CPU are given the type of an accelerator, and accelerate takes
its own way through `fully_shard` with gloo. What only a GPU can show: NCCL, streams that overlap,
pinned memory, and the kernels for CUDA on shards.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutCallback,
    TargetedDropoutTrainer,
    export_model,
    patch_model,
    prune_model,
)
from hf_td.patching.patch import find_patch
from hf_td.training import save_gathered
from tests.training.processes import run_in_processes

STEPS, STOP = 6, 3
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
ACTIVATIONS = "activations.safetensors"
FOLDERS = ("whole", "resumed-whole")


def decoder(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def rows() -> list[dict[str, Any]]:
    texts = torch.randint(0, 64, (32, 12), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": text, "labels": text} for text in texts]


def arguments(folder: Path, **changes: Any) -> TargetedDropoutArguments:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-3,  # gradients that are rounding alone make no whole steps
        "logging_steps": 1,
        "save_steps": STOP,
        "dataloader_pin_memory": False,
        "level": "unit",
        "importance": "activation",
        "targeting": 0.5,
        "targeting_schedule": "constant",
        "drop_rate": 0.5,
        "drop_rate_schedule": "constant",
    }
    return TargetedDropoutArguments(output_dir=str(folder), **{**settings, **changes})


def sharded_arguments(folder: Path, **changes: Any) -> TargetedDropoutArguments:
    """Return arguments under which accelerate uses FSDP2 in the processes of this group."""
    _make_known_to_accelerate()
    kind = changes.pop("state_dict_type", "FULL_STATE_DICT")
    config = {"version": 2, "state_dict_type": kind, **changes.pop("fsdp_config", {})}
    return arguments(folder, fsdp=True, fsdp_config=config, **changes)


def _make_known_to_accelerate() -> None:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    rank, processes = str(distributed.get_rank()), str(distributed.get_world_size())
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ.update(zip(names, (rank, rank, processes, processes), strict=True))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # the group is there already
    stock = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_XPU

    if not hasattr(PartialState, "_is_known"):
        PartialState.__init__ = init
        PartialState._is_known = True  # type: ignore[attr-defined]


def losses(folder: Path) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


def train(rank: int, folder: Path, kind: str) -> None:
    settings = sharded_arguments(folder / "run", state_dict_type=kind)
    trainer: Any = TargetedDropoutTrainer(decoder(), settings, train_dataset=rows())
    trainer.train()
    assert FSDPModule in type(trainer.model).__mro__
    save_gathered(trainer.model, folder / "whole")
    # Resumed from the middle by a new Trainer with other weights.
    settings = sharded_arguments(folder / "resumed", state_dict_type=kind)
    again: Any = TargetedDropoutTrainer(decoder(seed=5), settings, train_dataset=rows())
    again.train(resume_from_checkpoint=str(folder / "run" / f"checkpoint-{STOP}"))
    save_gathered(again.model, folder / "resumed-whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_the_trainer_shards_saves_and_resumes(kind, tmp_path):
    run_in_processes(train, 2, tmp_path, kind)
    settings = arguments(tmp_path / "alone", per_device_train_batch_size=8, save_strategy="no")
    alone: Any = TargetedDropoutTrainer(decoder(), settings, train_dataset=rows())
    alone.train()
    found, resumed = (load_file(tmp_path / name / "model.safetensors") for name in FOLDERS)
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(resumed, found, rtol=0, atol=0)
    for number in (STOP, STEPS):
        assert (tmp_path / "run" / f"checkpoint-{number}" / ACTIVATIONS).is_file()
    assert (tmp_path / "whole" / ACTIVATIONS).is_file()
    last = losses(tmp_path / "run" / f"checkpoint-{STEPS}")
    assert len(last) == STEPS
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    prune_model(model, 0.5)
    export = export_model(model, tmp_path / "export", check=False, multiple_of=1)
    assert export.parameters < alone.model.num_parameters()


def train_with_the_callback(rank: int, folder: Path) -> None:
    settings = sharded_arguments(folder / "run")
    model = patch_model(decoder(), level="weight", importance="activation", targeting=0.5)
    data: Any = rows()
    trainer: Any = Trainer(
        model, settings, train_dataset=data, callbacks=[TargetedDropoutCallback()]
    )
    trainer.train()
    patch = find_patch(trainer.model)
    assert patch is not None
    assert patch.updates == STEPS
    trainer.save_model(str(folder / "saved"))


@pytest.mark.slow
def test_the_callback_works_in_the_stock_trainer(tmp_path):
    run_in_processes(train_with_the_callback, 2, tmp_path)
    assert (tmp_path / "run" / f"checkpoint-{STEPS}" / ACTIVATIONS).is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert prune_model(model, 0.5).sparsity == pytest.approx(0.5, abs=0.02)


def taught_by(teacher: Path) -> dict[str, Any]:
    weights = {"distill_weight": 0.5, "distill_hidden_weight": 0.1, "distill_attention_weight": 0.1}
    return {"teacher": str(teacher), "save_strategy": "no", **weights}


def distil(rank: int, folder: Path) -> None:
    settings = sharded_arguments(folder / "run", **taught_by(folder / "teacher"))
    trainer: Any = TargetedDropoutTrainer(decoder(), settings, train_dataset=rows())
    trainer.train()
    assert isinstance(trainer._teacher, FSDPModule)
    save_gathered(trainer.model, folder / "whole")


@pytest.mark.slow
def test_a_teacher_is_sharded_as_the_student(tmp_path):
    decoder(seed=3).save_pretrained(tmp_path / "teacher")
    run_in_processes(distil, 2, tmp_path)
    changes = taught_by(tmp_path / "teacher")
    settings = arguments(tmp_path / "alone", per_device_train_batch_size=8, **changes)
    alone: Any = TargetedDropoutTrainer(decoder(), settings, train_dataset=rows())
    alone.train()
    found = load_file(tmp_path / "whole" / "model.safetensors")
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-3, atol=1e-5)


def ask_for_the_impossible(rank: int, folder: Path) -> None:
    changes = {"eval_sparsity": 0.5, "eval_strategy": "steps", "eval_steps": 1}
    settings = sharded_arguments(folder / "run", **changes)
    with pytest.raises(ValueError, match=r"eval_sparsity prunes .* under FSDP .*save_gathered"):
        TargetedDropoutTrainer(decoder(), settings, train_dataset=rows(), eval_dataset=rows())
    config = {"activation_checkpointing": True, "reshard_after_forward": False}
    settings = sharded_arguments(
        folder / "run",
        fsdp_config=config,
        save_strategy="no",
        targeting_sampled=0.0,
        targeting_off=0.0,  # or the last update may be one that drops nothing
    )
    trainer: Any = TargetedDropoutTrainer(decoder(), settings, train_dataset=rows())
    trainer.train()
    patch = find_patch(trainer.model)
    assert patch is not None
    assert patch.updates == STEPS
    assert 0.1 < patch.dropped_share() < 0.5


@pytest.mark.slow
def test_options_of_fsdp_config_and_what_is_refused(tmp_path):
    run_in_processes(ask_for_the_impossible, 2, tmp_path)
