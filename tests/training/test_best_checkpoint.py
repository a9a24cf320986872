"""What chooses by a metric can choose by that of the pruned model, and is warned if it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_td import (
    TargetedDropoutCallback,
    TargetedDropoutTrainer,
    patch_model,
    prune_model,
)
from hf_td.baselines import L1
from hf_td.baselines.trainer import BaselineTrainer
from hf_td.modules.passing import passed_layers
from hf_td.ranking.activations import Activations, find_activations
from hf_td.training import ReliableTrainer
from hf_td.training.callback import AnnealingCallback
from hf_td.training.pruned_evaluation import warn_if_chosen_unpruned
from tests.tiny import tiny_model
from tests.training.models import QUIET, arguments, every_level, examples, trainer_of

BEST: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
}
UNPRUNED = "is measured with the full weights"


def accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def evaluated(args: Any, **kwargs: Any) -> Any:
    model = tiny_model("bert")
    return trainer_of(
        model, args, eval_dataset=examples("bert"), compute_metrics=accuracy, **kwargs
    )


@every_level
def test_an_evaluation_has_the_metrics_of_the_pruned_model(level, tmp_path):
    trainer = evaluated(arguments(tmp_path, level=level, eval_sparsity=0.75))
    trainer.train()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found = trainer.evaluate()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer.args.eval_sparsity = None
    full = trainer.evaluate()
    prune_model(trainer.model, 0.75)
    pruned = trainer.evaluate()
    for name in ("eval_accuracy", "eval_loss"):
        assert found[name] == full[name]
        assert found[f"{name}_at_0.75"] == pruned[name]
    assert found["eval_loss"] != found["eval_loss_at_0.75"]
    assert not [name for name in found if "time_at" in name]


def test_every_part_of_an_evaluation_has_them(tmp_path):
    parts = {"one": examples("bert", 8), "two": examples("bert", 4)}
    trainer = trainer_of(
        tiny_model("bert"), arguments(tmp_path, eval_sparsity=0.5), eval_dataset=parts
    )
    found = trainer.evaluate()
    assert {"eval_one_loss_at_0.5", "eval_two_loss_at_0.5"} <= set(found)
    assert not [name for name in trainer.predict(parts["one"]).metrics if "_at_" in name]
    for prefix, measured in (("eval_test", True), ("test", False)):
        found = trainer.evaluate(parts["one"], metric_key_prefix=prefix)
        assert (f"{prefix}_loss_at_0.5" in found) == measured


def test_training_does_not_depend_on_it(tmp_path):
    weights = []
    for sparsity in (None, 0.75):
        args = arguments(tmp_path, eval_sparsity=sparsity, eval_strategy="steps", eval_steps=1)
        trainer = evaluated(args)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert_close(*weights, rtol=0, atol=0)


def test_the_best_checkpoint_is_that_of_the_pruned_model(tmp_path):
    args = arguments(
        tmp_path, **BEST, eval_sparsity=0.75, metric_for_best_model="loss_at_0.75", level="unit"
    )
    trainer = evaluated(args)
    trainer.train()
    history = trainer.state.log_history
    losses = {e["step"]: e["eval_loss_at_0.75"] for e in history if "eval_loss_at_0.75" in e}
    assert len(losses) == trainer.state.max_steps
    assert trainer.state.best_global_step == min(losses, key=losses.__getitem__)
    assert trainer.evaluate()["eval_loss_at_0.75"] == pytest.approx(min(losses.values()))


def test_early_stopping_looks_at_it(tmp_path):
    args = arguments(
        tmp_path, **BEST, eval_sparsity=0.75, metric_for_best_model="eval_accuracy_at_0.75"
    )
    trainer = evaluated(args, callbacks=[EarlyStoppingCallback(1, early_stopping_threshold=2.0)])
    trainer.train()
    assert trainer.state.global_step == 2  # no accuracy grows by 2


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"metric_for_best_model": "accuracy"}, True),
        ({}, True),  # by the loss
        ({"load_best_model_at_end": False}, False),
        ({"metric_for_best_model": "loss_at_0.75", "eval_sparsity": 0.75}, False),
        ({"targeting_schedule": "constant", "drop_rate_schedule": "constant"}, False),
        ({"save_strategy": "best", "metric_for_best_model": "accuracy"}, True),
    ],
)
def test_choosing_by_the_full_weights_warns_once(settings, warns, tmp_path, caplog):
    evaluated(arguments(tmp_path, **{**BEST, **settings})).train()
    said = [record.getMessage() for record in caplog.records if UNPRUNED in record.getMessage()]
    assert len(said) == warns
    if warns:
        name = "accuracy_at_0.75" if "metric_for_best_model" in settings else "loss_at_0.75"
        assert f"eval_sparsity=0.75 and metric_for_best_model='{name}'" in said[0]


@pytest.mark.parametrize(
    ("metric", "warns"),
    [
        ("precision_at_1", True),  # a metric of retrieval
        ("recall_at_10", True),
        ("precision_at_1_at_0.75", False),
        ("eval_accuracy_at_0.75", False),
        ("accuracy_at_once", True),
    ],
)
def test_a_metric_at_a_rank_is_no_metric_at_a_sparsity(metric, warns, tmp_path, caplog):
    settings = arguments(tmp_path, **{**BEST, "metric_for_best_model": metric})
    warn_if_chosen_unpruned(settings, settings.targeted_dropout())
    assert (UNPRUNED in caplog.text) is warns


def stock(model: Any, args: Any) -> Trainer:
    data = examples("bert")
    return Trainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=accuracy,
        callbacks=[TargetedDropoutCallback()],
    )


def test_the_callback_warns_and_loads_the_activations_of_the_best_model(tmp_path, caplog):
    # Learning rate and loss rise: the first checkpoint is the best.
    settings = {**QUIET, **BEST, "learning_rate": 1.0, "max_steps": 10}
    args = TrainingArguments(str(tmp_path), **settings)
    model = patch_model(tiny_model("bert"), level="unit", targeting=0.5)
    trainer = stock(model, args)
    trainer.train()
    assert UNPRUNED in caplog.text
    best = trainer.state.best_model_checkpoint
    assert best is not None
    assert trainer.state.best_global_step in range(9)
    found, saved = find_activations(model), Activations.load(best)
    assert found is not None
    assert saved is not None
    assert_close(dict(found.mean_squares), dict(saved.mean_squares), rtol=0, atol=0)
    last = Activations.load(tmp_path / "checkpoint-10")
    assert last is not None
    name = next(iter(last.mean_squares))
    assert not torch.equal(last.mean_squares[name], saved.mean_squares[name])


@pytest.mark.parametrize(
    ("trainer", "own"), [(ReliableTrainer, {}), (BaselineTrainer, {"baseline": L1(penalty=1.0)})]
)
def test_trainers_that_rank_nothing_refuse_the_setting(trainer, own, tmp_path):
    with pytest.raises(ValueError, match=f"eval_sparsity .*{trainer.__name__} has none"):
        trainer(tiny_model("bert"), arguments(tmp_path, eval_sparsity=0.5), **own)


@pytest.mark.parametrize("sparsity", [-0.1, 1.5])
def test_a_sparsity_is_a_fraction(sparsity, tmp_path):
    with pytest.raises(ValueError, match=rf"in \[0, 1\]; got {sparsity}"):
        arguments(tmp_path, eval_sparsity=sparsity)


ALONE = "takes no notice of"


def test_the_callback_names_arguments_that_the_stock_trainer_leaves_undone(tmp_path, caplog):
    args = arguments(tmp_path, level="unit", eval_sparsity=0.5, untargeted_lr_scale=1.0)
    model = patch_model(tiny_model("bert"), args.targeted_dropout())
    stock(model, args).train()
    assert f"{ALONE} eval_sparsity=0.5. Use TargetedDropoutTrainer" in caplog.text


def test_plain_arguments_and_the_own_trainer_leave_nothing_undone(tmp_path, caplog):
    model = patch_model(tiny_model("bert"), level="unit", targeting=0.5)
    stock(model, TrainingArguments(str(tmp_path), **QUIET)).train()
    args = arguments(tmp_path, level="unit", eval_sparsity=0.5)
    trainer = evaluated(args, callbacks=[TargetedDropoutCallback()])
    trainer.train()
    assert ALONE not in caplog.text
    callbacks = trainer.callback_handler.callbacks
    assert [type(c) for c in callbacks if isinstance(c, AnnealingCallback)] == [AnnealingCallback]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eval_sparsity": 0.9}, ["eval_sparsity=0.9 is above 0.75"]),
        ({"eval_sparsity": 0.75}, []),
        ({"fixed_sparsity": 0.9}, ["fixed_sparsity=0.9 is above the targeting 0.75"]),
        ({"fixed_sparsity": 0.9, "eval_sparsity": 0.9}, ["fixed_sparsity=0.9 is above"]),
        ({"fixed_sparsity": 0.75}, []),
    ],
)
def test_a_sparsity_that_is_not_trained_for_warns(settings, said, tmp_path, caplog):
    evaluated(arguments(tmp_path, **settings)).train()
    lines = [r.getMessage() for r in caplog.records if "is above" in r.getMessage()]
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


LAYERS: dict[str, Any] = {
    "level": "unit",
    "layers_level": "unit",
    "attention_level": "none",
    "feed_forward_level": "none",
    "targeting": 0.5,
    "fixed_sparsity": 0.5,
}


def outputs(model: Any) -> torch.Tensor:
    ids = torch.stack([one["input_ids"] for one in examples("bert", 8)])
    with torch.no_grad():
        return model.eval()(ids).logits


def earliest_first(kind: Any) -> Any:
    """Return a class of Trainers whose first checkpoint is the best."""

    class EarliestFirst(kind):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            found = super().evaluate(*args, **kwargs)
            found["eval_score"] = -float(self.state.global_step)
            return found

    return EarliestFirst


@pytest.mark.parametrize("callback", [False, True])
def test_layers_that_a_later_update_passed_by_compute_in_the_best_model(callback, tmp_path):
    choice = {"metric_for_best_model": "score", "greater_is_better": True}
    args = arguments(tmp_path, **LAYERS, **BEST, **choice, untargeted_lr_scale=1.0)
    kind = earliest_first(Trainer if callback else TargetedDropoutTrainer)
    model = tiny_model("bert")
    if callback:
        patch_model(model, args.targeted_dropout())
    own = {"callbacks": [TargetedDropoutCallback()]} if callback else {}
    data = examples("bert")
    trainer = kind(model, args, train_dataset=data, eval_dataset=data, **own)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-1")
    last = type(model).from_pretrained(tmp_path / f"checkpoint-{trainer.state.max_steps}")
    assert passed_layers(last)
    assert not passed_layers(model)
    assert torch.equal(outputs(model), outputs(type(model).from_pretrained(best)))
    model.save_pretrained(tmp_path / "saved")
    assert not passed_layers(type(model).from_pretrained(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("sparsity", "name"), [(2 / 3, f"accuracy_at_{2 / 3}"), (0.5, "accuracy_at_0.50")]
)
def test_the_metric_that_chooses_has_the_name_of_the_evaluation(sparsity, name, tmp_path):
    settings = {"eval_sparsity": sparsity, "metric_for_best_model": name, **BEST, "max_steps": 2}
    trainer = evaluated(arguments(tmp_path, **settings))
    trainer.train()
    assert trainer.state.best_metric is not None
    rounded = {**settings, "metric_for_best_model": f"accuracy_at_{sparsity:g}"}
    chosen = arguments(tmp_path, **rounded).metric_for_best_model
    assert chosen == trainer.args.metric_for_best_model


@pytest.mark.parametrize(("peak", "warns"), [(2, True), (6, False)])
@pytest.mark.parametrize("own", [True, False])
def test_adapters_from_before_the_fixed_phase_are_not_of_the_pruned_model(
    own, peak, warns, tmp_path, caplog
):
    def score(_: Any) -> dict[str, float]:
        return {"score": -abs(trainer.state.global_step - peak)}

    settings = {**BEST, "metric_for_best_model": "score", "greater_is_better": True}
    args = arguments(tmp_path, level="unit", fixed_sparsity=0.5, **settings)
    adapters = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model: Any = get_peft_model(tiny_model("bert"), adapters)
    if not own:
        patch_model(model, args.targeted_dropout())
    kind = TargetedDropoutTrainer if own else Trainer
    given: Any = {} if own else {"callbacks": [TargetedDropoutCallback()]}
    data = examples("bert")
    trainer: Any = kind(
        model, args, train_dataset=data, eval_dataset=data, compute_metrics=score, **given
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{peak}")
    assert ("has adapters of an update before the fixed phase" in caplog.text) is warns
