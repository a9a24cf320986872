"""Small models, their data and their Trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutSeq2SeqArguments,
    TargetedDropoutSeq2SeqTrainer,
    TargetedDropoutTrainer,
)
from hf_td.patching.patch import Patch, find_patch
from tests.tiny import VOCABULARY

STEPS = 6
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "dataloader_pin_memory": False,
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
}
SETTINGS: dict[str, Any] = {
    "targeting": 0.75,
    "targeting_schedule": "linear",
    "targeting_end": 0.5,
    "drop_rate": 0.8,
    "drop_rate_schedule": "linear",
    "drop_rate_initial": 0.5,
}
LEVELS = ["weight", "unit"]
every_level = pytest.mark.parametrize("level", LEVELS)
Example = dict[str, Tensor]


def examples(family: str, count: int = 32) -> Any:
    """Return random inputs with labels for the tiny model of a family."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=draws)
    ids = torch.randint(3, VOCABULARY, (count, 7), generator=draws)
    pixels = torch.rand(count, 3, 16, 16, generator=draws)
    make: dict[str, Callable[[int], Example]] = {
        "vit": lambda i: {"pixel_values": pixels[i], "labels": labels[i]},
        "gpt2": lambda i: {"input_ids": ids[i], "labels": ids[i]},
        "llama": lambda i: {"input_ids": ids[i], "labels": ids[i]},
        "t5": lambda i: {"input_ids": ids[i], "labels": ids[i, :4]},
        "bert": lambda i: {"input_ids": ids[i], "labels": labels[i]},
    }
    return [make[family](i) for i in range(count)]


def arguments(folder: Path, **settings: Any) -> TargetedDropoutArguments:
    return TargetedDropoutArguments(str(folder), **{**QUIET, **SETTINGS, **settings})


def saving_halfway(level: str, accumulation: int) -> dict[str, Any]:
    """Return the settings of a run that saves a checkpoint after half of its updates."""
    return {
        "level": level,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": STEPS // 2,
    }


def trainer_of(model: Any, args: Any, family: str = "bert", **kwargs: Any) -> Any:
    cls = TargetedDropoutSeq2SeqTrainer if family == "t5" else TargetedDropoutTrainer
    return cls(model, args, train_dataset=examples(family), **kwargs)


def patch_of(model: nn.Module) -> Patch:
    patch = find_patch(model)
    assert patch is not None
    return patch


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def seq2seq(family: str, folder: Path, **settings: Any) -> Any:
    if family == "t5":
        return TargetedDropoutSeq2SeqArguments(str(folder), **{**QUIET, **SETTINGS, **settings})
    return arguments(folder, **settings)
