"""The fixed phase: the model is pruned while it trains, and its zeros stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_td import TargetedDropoutCallback, patch_model, prune_model, unpatch_model
from hf_td.modules.passing import passed_layers
from hf_td.training import ReliableTrainer
from hf_td.training.restart import first_fixed_update
from tests.tiny import tiny_model
from tests.training.models import (
    QUIET,
    STEPS,
    arguments,
    assert_same_weights,
    examples,
    patch_of,
    saving_halfway,
    trainer_of,
)

FIXED: dict[str, Any] = {"fixed_sparsity": 0.5, "fixed_from": 0.5}


class Watch(TrainerCallback):
    """Records the learning rate and the zeros of every update."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.zeros: list[int] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.zeros.append(zeros_in(kwargs["model"]))


def zeros_in(model: Any) -> int:
    return sum(int((site.layer.weight == 0).sum()) for site in patch_of(model).sites)


def watched(folder: Any, family: str = "bert", **settings: Any) -> tuple[Any, Watch]:
    watch = Watch()
    args = arguments(folder, **{**FIXED, **settings})
    trainer = trainer_of(tiny_model(family), args, family, callbacks=[watch])
    trainer.train()
    return trainer, watch


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"level": "weight"}),
        ("bert", {"level": "unit"}),
        ("bert", {"rank_over": "matrix"}),
        ("bert", {"rank_over": "model"}),
        ("gpt2", {"level": "weight"}),
        ("llama", {"level": "unit"}),
    ],
)
def test_from_then_on_the_zeros_are_those_of_pruning_and_pruning_is_a_no_op(
    family, settings, tmp_path
):
    trainer, watch = watched(tmp_path, family, **settings)
    assert max(watch.zeros[: STEPS // 2]) == 0 < watch.zeros[-1]
    assert len(set(watch.zeros[STEPS // 2 :])) == 1
    logs = [log for log in trainer.state.log_history if "dropped_share" in log]
    assert [log["targeting"] > 0 for log in logs] == [False, True, True] + 3 * [False]
    model = unpatch_model(trainer.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = prune_model(model, 0.5)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("family", "level", "accumulation", "importance", "from_step"),
    [
        ("bert", "weight", 2, "activation", STEPS // 2 - 1),
        ("bert", "weight", 1, "activation", STEPS // 2),
        ("bert", "model", 1, "activation", STEPS // 2),
        ("bert", "weight", 1, "random", STEPS // 2 + 2),
        ("gpt2", "unit", 1, "magnitude", STEPS // 2 + 2),
        ("bert", "unit", 2, "activation", STEPS // 2),
        ("bert", "layers", 1, "activation", STEPS // 2 + 2),
    ],
)
def test_a_resumed_run_is_bit_identical_before_and_in_the_phase(
    family, level, accumulation, importance, from_step, tmp_path
):
    every: Any = {"layers": {"layers_level": "unit"}, "model": {"rank_over": "model"}}
    more = every.get(level, {})
    settings = {
        **saving_halfway(
            str({"layers": "unit", "model": "weight"}.get(level, level)), accumulation
        ),
        **{**FIXED, **more, "importance": importance, "average": 0.5},
        "save_steps": from_step,
        "fixed_lr_scale": 1.0,
    }
    whole = trainer_of(tiny_model(family), arguments(tmp_path / "a", **settings), family)
    whole.train()
    args = arguments(tmp_path / "b", **{**settings, "save_strategy": "no"})
    resumed = trainer_of(tiny_model(family, seed=1), args, family)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{from_step}"))
    assert_same_weights(resumed.model, whole.model)


def test_the_learning_rate_starts_again_and_falls_to_zero(tmp_path):
    one, watch = watched(tmp_path, fixed_lr_scale=0.5, untargeted_lr_scale=1.0)
    assert_close(watch.rates, [1e-2 * x for x in (1, 2 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 6)])
    assert one.lr_scheduler.get_last_lr() == [0.0] * len(one.optimizer.param_groups)
    _, watch = watched(tmp_path, untargeted_lr_scale=1.0)
    assert_close(watch.rates, [1e-2 * left / 6 for left in range(6, 0, -1)])


@pytest.mark.parametrize(("total", "begin", "first"), [(6, 0.5, 3), (3, 2 / 3, 2), (10, 0.99, 10)])
def test_the_first_update_of_the_phase(total, begin, first):
    assert first_fixed_update(total, begin) == first


def test_what_cannot_be_fixed_is_refused_before_training(tmp_path):
    def train(**settings: Any) -> None:
        trainer_of(tiny_model("bert"), arguments(tmp_path, **{**FIXED, **settings})).train()

    with pytest.raises(ValueError, match="none of 6 updates begins there or later"):
        train(fixed_from=0.9)
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
    args = arguments(tmp_path, **FIXED, **plateau, fixed_lr_scale=1.0)
    made = trainer_of(tiny_model("bert"), args, eval_dataset=examples("bert"))
    with pytest.raises(ValueError, match="ReduceLROnPlateau is none"):
        made.train()
    with pytest.raises(ValueError, match=r"average is a decay in \[0, 1\], got 2"):
        arguments(tmp_path, **FIXED, average=2.0)
    for name in ("average", "fixed_lr_scale"):
        with pytest.raises(ValueError, match=f"{name} is of the fixed phase, and there is none"):
            arguments(tmp_path, **{name: 1.0})
    with pytest.raises(ValueError, match="fixed_lr_scale is at least 0"):
        arguments(tmp_path, fixed_lr_scale=-1.0)
    with pytest.raises(ValueError, match="fixed_sparsity prunes by the ranking"):
        ReliableTrainer(tiny_model("bert"), arguments(tmp_path, **FIXED))
    model = tiny_model("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    given: Any = (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    args = arguments(tmp_path, **FIXED, fixed_lr_scale=1.0)
    with pytest.raises(ValueError, match="it was given one"):
        trainer_of(model, args, optimizers=given).train()


def test_the_callback_alone_fixes_the_pattern(tmp_path):
    model: Any = patch_model(tiny_model("bert"), **FIXED, targeting=0.5)
    args = TrainingArguments(str(tmp_path), **QUIET)
    watch, callback = Watch(), TargetedDropoutCallback()
    Trainer(model, args, train_dataset=examples("bert"), callbacks=[callback, watch]).train()
    assert watch.zeros[STEPS // 2 - 1] == 0 < watch.zeros[-1]
    assert not patch_of(model).is_fixed  # what is trained next may fill the zeros


def test_evaluations_of_the_phase_measure_the_pruned_model(tmp_path):
    args = arguments(
        tmp_path, **FIXED, eval_sparsity=0.5, eval_strategy="steps", eval_steps=1, level="unit"
    )
    trainer = trainer_of(tiny_model("bert"), args, eval_dataset=examples("bert"))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    same = [log["eval_loss"] == log["eval_loss_at_0.5"] for log in logs]
    assert same == [False] * 3 + [True] * 3


def test_an_optimiser_that_packs_its_momentum_is_refused_before_the_first_update(tmp_path):
    with pytest.raises(ValueError, match=r"adamw_bnb_8bit.*packs"):
        watched(tmp_path, optim="adamw_bnb_8bit")


def test_a_finished_run_that_is_resumed_passes_the_same_layers_by(tmp_path):
    none = {"attention_level": "none", "feed_forward_level": "none"}
    settings = {"level": "unit", "layers_level": "unit", **none, "targeting": 0.5, **FIXED}
    saving = {"save_strategy": "steps", "save_steps": STEPS}

    def run(resume: str | None) -> Any:
        trainer = trainer_of(tiny_model("bert"), arguments(tmp_path, **settings, **saving))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole, resumed = run(None), run(str(tmp_path / f"checkpoint-{STEPS}"))
    assert passed_layers(resumed) == passed_layers(whole) != []
    batch = {"input_ids": torch.stack([one["input_ids"] for one in examples("bert", 4)])}
    assert torch.equal(whole.eval()(**batch).logits, resumed.eval()(**batch).logits)


@pytest.mark.parametrize("name", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_optimisers_that_update_inside_the_backward_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="updates inside the backward"):
        trainer_of(tiny_model("bert"), arguments(tmp_path, **FIXED, optim=name))
