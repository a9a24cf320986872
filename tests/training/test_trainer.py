"""Whole training runs on a handful of random examples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    Seq2SeqTrainer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_td import (
    Schedule,
    TargetedDropoutArguments,
    TargetedDropoutCallback,
    TargetedDropoutConfig,
    TargetedDropoutSeq2SeqArguments,
    TargetedDropoutSeq2SeqTrainer,
    TargetedDropoutTrainer,
    patch_model,
    unpatch_model,
)
from hf_td.layers import is_targeted
from hf_td.patching import Patch, find_patch
from tests.tiny import VOCABULARY, tiny_model

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
    """Random inputs with labels that a forward of the family's tiny model takes."""
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


# --- resume ---


@pytest.mark.parametrize(
    ("family", "level", "accumulation"),
    [
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
    settings = {
        "level": level,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": STEPS // 2,
    }
    whole = trainer_of(tiny_model(family), seq2seq(family, tmp_path / "a", **settings), family)
    whole.train()
    checkpoint = tmp_path / "a" / f"checkpoint-{STEPS // 2}"
    args = seq2seq(family, tmp_path / "b", **{**settings, "save_strategy": "no"})
    resumed = trainer_of(tiny_model(family, seed=1), args, family)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == STEPS
    assert_same_weights(resumed.model, whole.model)
    for site, twin in zip(patch_of(whole.model).sites, patch_of(resumed.model).sites, strict=True):
        assert torch.equal(site.layer.keep, twin.layer.keep)


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
    assert "save_pretrained" not in trainer.model.__dict__


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
def test_the_stock_trainer_with_the_callback_trains_alike(level, tmp_path):
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
        tiny_model("t5"),
        args,
        train_dataset=examples("t5"),
        eval_dataset=examples("t5", 4),
    )
    assert isinstance(trainer, Seq2SeqTrainer)
    trainer.train()
    predicted: Any = trainer.predict(examples("t5", 4)).predictions
    assert predicted.shape[0] == 4
    assert math.isfinite(trainer.evaluate()["eval_loss"])


# --- evaluation ---


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
    """Stock dropout draws from the global random state, which a data loader draws from too."""
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
    """Spoils the model before its third update."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            kwargs["model"].classifier.bias.data.fill_(self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(value, accumulation, tmp_path):
    args = arguments(
        tmp_path,
        save_strategy="steps",
        save_steps=1,
        gradient_accumulation_steps=accumulation,
    )
    trainer = trainer_of(tiny_model("bert"), args, callbacks=[Break(value)])
    with pytest.raises(FloatingPointError, match="the loss is nan at update 3 of 6; nothing was"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


# --- arguments ---

FLAT: dict[str, Any] = {
    "level": "unit",
    "feed_forward_level": "weight",
    "targeting": 0.6,
    "targeting_schedule": "cosine",
    "targeting_initial": 0.1,
    "targeting_begin": 0.2,
    "targeting_end": 0.8,
    "targeting_sampled": 0.25,
    "targeting_off": 0.5,
    "drop_rate": 0.7,
    "drop_rate_schedule": "piecewise",
    "drop_rate_end": 0.4,
    "include": ["*.layer.*", "*.attn.*"],
    "exclude": ["*.query"],
    "layers": [0, 2],
    "importance": "random",
    "draw": "element",
    "rescale": True,
}
EXPECTED = TargetedDropoutConfig(
    level="unit",
    feed_forward_level="weight",
    targeting=0.6,
    targeting_schedule=Schedule(
        shape="cosine", initial=0.1, begin=0.2, end=0.8, sampled=0.25, off=0.5
    ),
    drop_rate=0.7,
    drop_rate_schedule=Schedule(shape="piecewise", end=0.4),
    include=("*.layer.*", "*.attn.*"),
    exclude=("*.query",),
    layers=(0, 2),
    importance="random",
    draw="element",
    rescale=True,
    seed=7,
)


def from_command_line(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    words = []
    for name, value in values.items():
        given = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, given)]
    return parser.parse_args_into_dataclasses(words)


def from_json(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    path = folder / "settings.json"
    path.write_text(json.dumps(values))
    return parser.parse_json_file(str(path))


def from_yaml(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return parser.parse_yaml_file(str(path))


ARGUMENTS: Any = [TargetedDropoutArguments]
every_source = pytest.mark.parametrize("parse", [from_command_line, from_json, from_yaml])
every_kind: Any = pytest.mark.parametrize(
    "kind", [TargetedDropoutArguments, TargetedDropoutSeq2SeqArguments]
)


@every_source
@every_kind
def test_settings_come_from_the_command_line_json_and_yaml(parse, kind, tmp_path):
    values = {**FLAT, "output_dir": str(tmp_path), "seed": 7, "use_cpu": True}
    (args,) = parse(HfArgumentParser(kind), values, tmp_path)
    assert isinstance(args, kind)
    assert args.targeted_dropout() == EXPECTED
    assert args.seed == 7


@every_kind
def test_the_defaults_are_those_of_the_configuration(kind, tmp_path):
    args = kind(str(tmp_path), use_cpu=True, seed=0)
    assert args.targeted_dropout() == TargetedDropoutConfig()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"targeting": 1.0}, r"targeting is a fraction in \[0, 1\), got 1.0"),
        ({"drop_rate": -0.5}, "drop_rate is a probability"),
        ({"drop_rate_end": 1.5}, "would outlast the run"),
        ({"targeting_begin": 0.9}, "0 <= begin < end"),
    ],
)
@every_source
def test_bad_settings_are_refused_when_they_are_parsed(parse, bad, message, tmp_path):
    values = {**bad, "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=message):
        parse(HfArgumentParser(ARGUMENTS), values, tmp_path)


@pytest.mark.parametrize("name", ["level", "importance", "draw", "drop_rate_schedule"])
def test_a_choice_that_is_none_is_refused_on_the_command_line(name, tmp_path, capsys):
    parser = HfArgumentParser(ARGUMENTS)
    with pytest.raises(SystemExit, match="2"):
        from_command_line(parser, {"output_dir": str(tmp_path), name: "nonsense"}, tmp_path)
    assert f"argument --{name}" in capsys.readouterr().err


def test_arguments_survive_their_json_form(tmp_path):
    args = arguments(tmp_path, **{k: v for k, v in FLAT.items() if k not in SETTINGS})
    written = json.loads(args.to_json_string())
    assert written["targeting"] == 0.75
    assert written["layers"] == [0, 2]
