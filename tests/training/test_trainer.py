"""The Trainers anneal any model, and evaluate its full weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    PreTrainedModel,
    Seq2SeqTrainer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutCallback,
    TargetedDropoutConfig,
    TargetedDropoutSeq2SeqArguments,
    TargetedDropoutSeq2SeqTrainer,
    TargetedDropoutTrainer,
    patch_model,
    prune_model,
    unpatch_model,
)
from hf_td.ranking.activations import FILE, Activations
from tests.tiny import tiny_model
from tests.training.models import (
    QUIET,
    SETTINGS,
    STEPS,
    arguments,
    assert_same_weights,
    every_level,
    examples,
    patch_of,
    trainer_of,
)

# --- what is logged ---


def test_the_log_has_the_scheduled_rates_and_what_they_dropped(tmp_path):
    args = arguments(tmp_path, logging_steps=2, targeting_off=0.0)
    trainer = trainer_of(tiny_model("bert"), args)
    trainer.train()
    config = args.targeted_dropout()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in history] == [2, 4, 6]
    for entry in history:
        targeting, drop_rate = config.rates((entry["step"] - 1) / STEPS)[:2]
        assert entry["targeting"] == pytest.approx(targeting)
        assert entry["drop_rate"] == pytest.approx(drop_rate)
        assert entry["dropped_share"] == pytest.approx(targeting * drop_rate, abs=0.05)
    json.dumps(history)


def test_evaluation_and_the_summary_are_logged_without_rates(tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=3)
    trainer = trainer_of(tiny_model("bert"), args, eval_dataset=examples("bert", 8))
    trainer.train()
    others = [entry for entry in trainer.state.log_history if "loss" not in entry]
    assert len(others) == 3
    assert not any("targeting" in entry for entry in others)


def test_reports_see_the_rates_too(tmp_path):
    seen = []

    class Report(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            seen.append(dict(kwargs["logs"]))

    trainer = trainer_of(tiny_model("bert"), arguments(tmp_path, max_steps=2), callbacks=[Report()])
    trainer.train()
    losses = [logs for logs in seen if "loss" in logs]
    assert len(losses) == 2
    assert all({"targeting", "drop_rate", "dropped_share"} <= logs.keys() for logs in losses)


# --- which model, which arguments, which Trainer ---


def stock_trainer(model: PreTrainedModel, folder: Path, **kwargs: Any) -> Trainer:
    return Trainer(
        model, TrainingArguments(str(folder), **QUIET), train_dataset=examples("bert"), **kwargs
    )


@every_level
def test_the_stock_trainer_with_the_callback_trains_the_same_weights(level, tmp_path):
    args = arguments(tmp_path, level=level, untargeted_lr_scale=1.0)
    ours = trainer_of(tiny_model("bert"), args)
    ours.train()
    model = patch_model(tiny_model("bert"), args.targeted_dropout())
    stock = stock_trainer(model, tmp_path, callbacks=[TargetedDropoutCallback()])
    stock.train()
    assert_same_weights(model, ours.model)
    losses = [entry for entry in stock.state.log_history if "loss" in entry]
    assert all("dropped_share" in entry for entry in losses)


@every_level
def test_the_stock_trainer_with_the_callback_resumes_a_run_of_its_own_folder(
    level, tmp_path, caplog
):
    config = arguments(tmp_path, level=level).targeted_dropout()

    def train(seed: int, folder: str, checkpoint: str | None = None) -> PreTrainedModel:
        model = patch_model(tiny_model("bert", seed), config)
        args = TrainingArguments(
            str(tmp_path / folder), **{**QUIET, "save_strategy": "steps", "save_steps": STEPS // 2}
        )
        calls: list[TrainerCallback] = [TargetedDropoutCallback()]
        trainer = Trainer(model, args, train_dataset=examples("bert"), callbacks=calls)
        trainer.train(resume_from_checkpoint=checkpoint)
        return model

    whole = train(0, "run")
    checkpoint = tmp_path / "run" / f"checkpoint-{STEPS // 2}"
    assert_same_weights(train(1, "run", str(checkpoint)), whole)
    saved = type(whole).from_pretrained(checkpoint)
    assert prune_model(saved, 0.5).sparsity > 0.4, "ranked by the activations beside it"
    assert "activations" not in caplog.text
    train(1, "elsewhere", str(checkpoint))
    assert "Without the activations of the checkpoint" in caplog.text


def test_a_warning_names_settings_that_a_patched_model_ignores(tmp_path, caplog):
    model = patch_model(tiny_model("bert"), arguments(tmp_path, level="weight").targeted_dropout())
    trainer_of(model, arguments(tmp_path, level="weight"))
    trainer_of(model, TargetedDropoutArguments(str(tmp_path), **QUIET))
    assert not caplog.messages
    trainer_of(model, arguments(tmp_path, level="unit"))
    assert "settings in the arguments are ignored" in caplog.text
    assert "level='weight'" in caplog.text


@every_level
def test_the_stock_trainer_alone_counts_updates_at_the_final_rates(level, tmp_path):
    rates = {"targeting": 0.75, "targeting_schedule": "constant", "drop_rate": 0.5}
    model = patch_model(tiny_model("bert"), level=level, **rates)
    before = model.state_dict()["classifier.weight"].clone()
    stock_trainer(model, tmp_path).train()
    assert patch_of(model).updates == STEPS
    assert patch_of(model).rates[:2] == (0.75, 0.5)
    assert patch_of(model).dropped_share() > 0
    assert not torch.equal(model.state_dict()["classifier.weight"], before)


def test_training_with_nothing_dropped_is_stock_training(tmp_path):
    model = tiny_model("bert")
    stock_trainer(model, tmp_path).train()
    args = arguments(tmp_path, drop_rate=0.0, untargeted_lr_scale=1.0)
    ours = trainer_of(tiny_model("bert"), args)
    ours.train()
    assert_same_weights(unpatch_model(ours.model), model)


def test_targeted_training_is_not_stock_training(tmp_path):
    model = tiny_model("bert")
    stock_trainer(model, tmp_path).train()
    ours = trainer_of(tiny_model("bert"), arguments(tmp_path))
    ours.train()
    assert not torch.equal(
        ours.model.state_dict()["classifier.weight"], model.state_dict()["classifier.weight"]
    )


def test_a_model_that_is_patched_keeps_its_settings(tmp_path):
    model = patch_model(tiny_model("bert"), targeting=0.3)
    trainer = trainer_of(model, arguments(tmp_path, targeting=0.6))
    assert trainer.model is model
    assert patch_of(model).config.targeting == 0.3


def test_plain_arguments_mean_the_default_settings(tmp_path):
    model = tiny_model("bert")
    trainer_of(model, TrainingArguments(str(tmp_path), **QUIET))
    assert patch_of(model).config == TargetedDropoutConfig()


@pytest.mark.parametrize(
    ("trainer", "kind"),
    [
        (TargetedDropoutTrainer, TargetedDropoutArguments),
        (TargetedDropoutSeq2SeqTrainer, TargetedDropoutSeq2SeqArguments),
    ],
)
def test_without_arguments_the_defaults_are_used(trainer, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built = trainer(tiny_model("t5"))
    assert isinstance(built.args, kind)
    assert patch_of(built.model).config == TargetedDropoutConfig(seed=built.args.seed)


def test_a_model_from_model_init_is_patched(tmp_path):
    made = []

    def model_init() -> PreTrainedModel:
        made.append(tiny_model("bert"))
        return made[-1]

    args = arguments(tmp_path, level="unit", max_steps=2)
    trainer = TargetedDropoutTrainer(
        args=args, model_init=model_init, train_dataset=examples("bert")
    )
    trainer.train()
    assert trainer.model is made[-1]
    assert patch_of(made[-1]).config == args.targeted_dropout()
    assert patch_of(made[-1]).updates == 2
    config = args.targeted_dropout()
    expected = [config.rates(0.0, 0).targeting, config.rates(0.5, 1).targeting]
    assert [entry["targeting"] for entry in trainer.state.log_history[:2]] == expected


@every_level
def test_the_seq2seq_trainer_trains_and_generates(level, tmp_path):
    args = TargetedDropoutSeq2SeqArguments(
        str(tmp_path),
        **{**QUIET, **SETTINGS},
        level=level,
        predict_with_generate=True,
        generation_max_length=4,
    )
    trainer = TargetedDropoutSeq2SeqTrainer(
        tiny_model("t5"), args, train_dataset=examples("t5"), eval_dataset=examples("t5", 4)
    )
    assert isinstance(trainer, Seq2SeqTrainer)
    trainer.train()
    predicted: Any = trainer.predict(examples("t5", 4)).predictions
    assert predicted.shape[0] == 4
    assert math.isfinite(trainer.evaluate()["eval_loss"])


# --- evaluation ---


def test_an_unpatched_model_can_be_saved_with_its_activations(tmp_path):
    trainer = trainer_of(tiny_model("bert"), arguments(tmp_path / "run"))
    trainer.train()
    unpatch_model(trainer.model)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / FILE).is_file()


def test_only_a_process_that_writes_writes_activations(tmp_path, monkeypatch):
    """On another node the folder does not even exist."""
    trainer = trainer_of(tiny_model("bert"), arguments(tmp_path / "run"))
    trainer.train()
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer._save(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()


def test_the_best_model_comes_with_its_own_activations(tmp_path):
    often = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "best", "max_steps": 6}
    values = iter([1.0, 0.0, 0.0])
    trainer = trainer_of(
        tiny_model("bert"),
        arguments(tmp_path, **often, **best),
        eval_dataset=examples("bert", 8),
        compute_metrics=lambda _: {"best": next(values)},
    )
    trainer.train()
    found, saved = patch_of(trainer.model).activations, Activations.load(tmp_path / "checkpoint-2")
    assert found is not None
    assert saved is not None
    for name, squares in saved.mean_squares.items():
        assert_close(found.mean_squares[name], squares, rtol=0, atol=0)


@every_level
def test_evaluation_uses_the_full_weights(level, tmp_path):
    def last_logits(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"count": float(len(prediction.label_ids))}

    seen: list[Any] = []
    data: Any = examples("bert", 8)
    settings: Any = {"eval_dataset": data, "compute_metrics": last_logits}
    rates = {"drop_rate": 1.0, "targeting_sampled": 0.0, "targeting_off": 0.0}
    args = arguments(tmp_path, level=level, **rates)
    trainer = trainer_of(tiny_model("bert"), args, **settings)
    trainer.train()
    assert patch_of(trainer.model).dropped_share() > 0.5
    ours = trainer.evaluate()
    stock = stock_trainer(unpatch_model(trainer.model), tmp_path, **settings).evaluate()
    assert ours["eval_loss"] == stock["eval_loss"]
    assert ours["eval_count"] == stock["eval_count"] == 8
    assert_close(seen[0], seen[1], rtol=0, atol=0)


def without_stock_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Turn stock dropout off: it draws from the global random state, as a data loader does."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_evaluation_between_updates_changes_nothing(tmp_path):
    models = [without_stock_dropout(tiny_model("bert")) for _ in range(2)]
    plain = trainer_of(models[0], arguments(tmp_path, max_steps=3))
    plain.train()
    args = arguments(tmp_path, max_steps=3, eval_strategy="steps", eval_steps=1)
    watched = trainer_of(models[1], args, eval_dataset=examples("bert", 8))
    watched.train()
    assert_same_weights(watched.model, plain.model)


# --- a loss that is not finite ---


class Break(TrainerCallback):
    """A callback that makes the loss nan in the third update."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            kwargs["model"].classifier.bias.data.fill_(self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(value, accumulation, tmp_path):
    args = arguments(
        tmp_path, save_strategy="steps", save_steps=1, gradient_accumulation_steps=accumulation
    )
    trainer = trainer_of(tiny_model("bert"), args, callbacks=[Break(value)])
    with pytest.raises(FloatingPointError, match="the loss is nan at update 3 of 6; nothing was"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


@every_level
@pytest.mark.parametrize(
    ("strategy", "accumulation", "steps"),
    [("steps", 1, range(1, 13)), ("epoch", 1, [5, 10, 12]), ("epoch", 2, [3, 6, 9, 12])],
)
def test_the_logged_share_is_what_the_update_dropped(
    level, strategy, accumulation, steps, tmp_path
):
    class Watching(TargetedDropoutTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            shares[self.state.global_step + 1] = patch_of(self.model).dropped_share()
            return super().training_step(*args, **kwargs)

    shares: dict[int, float] = {}
    own = {"max_steps": 12, "logging_strategy": strategy}
    args = arguments(tmp_path, level=level, gradient_accumulation_steps=accumulation, **own)
    # Five batches: with two in an update, the last update of an epoch has one.
    trainer = Watching(tiny_model("bert"), args, train_dataset=examples("bert", 20))
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "dropped_share" in entry]
    logged = {entry["step"]: entry["dropped_share"] for entry in history}
    assert [*logged] == [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert {*steps} <= logged.keys()
    assert logged == {step: shares[step] for step in logged}


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("classes", -100, "No label of the batch counts, all are -100"),
        ("numbers", math.nan, "Labels of the batch are not finite"),
        ("numbers", 1e38, "Lower the learning rate"),
    ],
)
def test_labels_that_make_a_loss_not_finite_are_named(kind, label, message, tmp_path):
    model: Any = tiny_model("bert")
    if kind == "numbers":
        model.num_labels, model.config.problem_type = 1, "regression"
        model.config.num_labels = 1
        model.classifier = nn.Linear(32, 1)
    rows = [{**row, "labels": torch.tensor(label)} for row in examples("bert")]
    args = arguments(tmp_path)
    trainer = TargetedDropoutTrainer(model, args, train_dataset=rows)
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
