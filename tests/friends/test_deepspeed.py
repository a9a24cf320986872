"""DeepSpeed's ZeRO-1 and ZeRO-2, under which weights are whole, on the CPU."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import LlamaConfig, LlamaForCausalLM

from hf_td import anneal, patch_model
from tests.friends.helpers import friend
from tests.training.processes import run_in_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
UPDATES, SEQUENCES = 4, 4
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


def patched() -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    settings: dict[str, Any] = {"targeting": 0.5, "targeting_schedule": "constant"}
    return patch_model(model, level="weight", drop_rate=0.5, **settings)


def batch(update: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(update)
    return torch.randint(0, 64, (SEQUENCES, 12), generator=generator)


def train_by_deepspeed(rank: int, folder: Path, stage: int) -> None:
    processes = distributed.get_world_size()
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (str(rank), str(rank), str(processes), "127.0.0.1", "1")  # the group is there
    os.environ.update(zip(names, values, strict=True), DS_ACCELERATOR="cpu")
    deepspeed: Any = import_module("deepspeed")

    model = patched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {
        "train_micro_batch_size_per_gpu": SEQUENCES // processes,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # by default gradients are clipped
    }
    deepspeed.init_distributed("gloo")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for update in range(UPDATES):
        engine.train()  # returns nothing
        anneal(engine, 0.9, update)
        ids = batch(update).chunk(processes)[rank]
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    if rank == 0:
        torch.save(model.state_dict(), folder / "weights.pt")


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_trains_as_one_process(stage, tmp_path):
    friend("deepspeed")
    run_in_processes(train_by_deepspeed, 2, tmp_path, stage)
    alone = patched()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for update in range(UPDATES):
        anneal(alone.train(), 0.9, update)
        ids = batch(update)
        alone(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = torch.load(tmp_path / "weights.pt")
    torch.testing.assert_close(found, alone.state_dict(), rtol=1e-4, atol=1e-6)
