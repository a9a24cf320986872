"""A resumed run is bit-identical to an uninterrupted one, and saves stock checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_td import TargetedDropoutConfig
from hf_td.patching.layers import is_targeted, kept
from hf_td.training import ReliableTrainer, TargetedDropoutTrainer
from tests.tiny import tiny_model
from tests.training.models import (
    STEPS,
    arguments,
    assert_same_weights,
    every_level,
    examples,
    patch_of,
    saving_halfway,
    seq2seq,
    trainer_of,
)


@pytest.mark.parametrize(
    ("family", "level", "accumulation"),
    [
        ("bert", "layers", 2),
        ("llama", "layers", 1),
        ("t5", "layers", 1),
        ("bert", "weight", 1),
        ("bert", "unit", 2),
        ("gpt2", "weight", 2),
        ("llama", "unit", 1),
        ("t5", "unit", 2),
        ("vit", "weight", 1),
    ],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    family, level, accumulation, tmp_path
):
    layers = {"layers_level": "unit"} if level == "layers" else {}
    settings = {**saving_halfway("unit" if layers else level, accumulation), **layers}
    whole = trainer_of(tiny_model(family), seq2seq(family, tmp_path / "a", **settings), family)
    whole.train()
    checkpoint = tmp_path / "a" / f"checkpoint-{STEPS // 2}"
    args = seq2seq(family, tmp_path / "b", **{**settings, "save_strategy": "no"})
    resumed = trainer_of(tiny_model(family, seed=1), args, family)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == STEPS
    assert_same_weights(resumed.model, whole.model)
    for site, twin in zip(patch_of(whole.model).sites, patch_of(resumed.model).sites, strict=True):
        assert torch.equal(kept(site.layer), kept(twin.layer))


@pytest.mark.parametrize("trainer", [TargetedDropoutTrainer, ReliableTrainer])
def test_a_run_that_groups_rows_by_length_resumes_inside_an_epoch(trainer, tmp_path):
    def train(folder: str, **resume: Any) -> Any:
        settings = {**saving_halfway("weight", 1), "save_steps": STEPS - 1}
        settings["train_sampling_strategy"] = "group_by_length"
        args = arguments(tmp_path / folder, **settings)
        model = tiny_model("bert")
        made = trainer(model, args, train_dataset=examples("bert", 8))  # 4 updates an epoch
        made.train(**resume)
        return model

    whole = train("whole")
    resumed = train("resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("trainer", [TargetedDropoutTrainer, ReliableTrainer])
def test_a_finished_run_that_is_resumed_makes_no_update(trainer, tmp_path):
    settings = {**saving_halfway("weight", 1), "save_steps": STEPS, "lr_scheduler_type": "constant"}
    done = []
    for resume in (None, str(tmp_path / f"checkpoint-{STEPS}")):
        args = arguments(tmp_path, **settings)
        made = trainer(tiny_model("bert"), args, train_dataset=examples("bert", 16))
        made.train(resume_from_checkpoint=resume)  # 4 updates an epoch: it ends inside one
        assert made.state.global_step == STEPS
        done.append(made.model)
    assert_same_weights(*done)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "vit"])
@every_level
def test_what_training_saves_loads_by_the_stock_class(family, level, tmp_path):
    args = seq2seq(family, tmp_path, level=level, max_steps=2)
    trainer = trainer_of(tiny_model(family), args, family)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    trainer._save_checkpoint(trainer.model, None)
    for folder in ("final", "checkpoint-2"):
        stock: Any = type(tiny_model(family))
        again, info = stock.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert {key: value for key, value in info.items() if value} == {}
        assert not any(is_targeted(m) for m in again.modules())
        assert_same_weights(again, trainer.model)
        recorded = again.config.targeted_dropout
        assert TargetedDropoutConfig.from_dict(recorded) == args.targeted_dropout()
    own = getattr(trainer.model.save_pretrained, "keywords", {})
    assert "save_original_format" not in own


def test_a_checkpoint_that_lost_its_activations_is_resumed_with_a_warning(tmp_path, caplog):
    own = saving_halfway("unit", 1) | {"importance": "activation"}
    trainer_of(tiny_model("bert"), arguments(tmp_path, **own)).train()
    folder = tmp_path / f"checkpoint-{STEPS // 2}"
    for name in ("activations.safetensors", "whole.json"):
        (folder / name).unlink()
    trainer = trainer_of(tiny_model("bert"), arguments(tmp_path, **own))
    trainer.train(resume_from_checkpoint=str(folder))
    assert "Without the activations of the checkpoint masks can differ" in caplog.text


def test_a_checkpoint_of_other_settings_is_resumed_with_a_warning_that_names_them(tmp_path, caplog):
    own = saving_halfway("unit", 1)
    trainer_of(tiny_model("bert"), arguments(tmp_path, **own)).train()
    folder = str(tmp_path / f"checkpoint-{STEPS // 2}")
    trainer_of(tiny_model("bert"), arguments(tmp_path, **own)).train(resume_from_checkpoint=folder)
    assert "other settings" not in caplog.text
    other = arguments(tmp_path, **{**own, "targeting": 0.25})
    trainer_of(tiny_model("bert"), other).train(resume_from_checkpoint=folder)
    assert "other settings: targeting was 0.75 and is 0.25." in caplog.text
