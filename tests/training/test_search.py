"""Every trial of a hyperparameter search trains with its own settings.

optuna is not needed: a stand-in for a backend trains one trial after the other, as each backend
does. tests/friends has the real library.
"""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from hf_td import TargetedDropoutTrainer
from hf_td.baselines import L1
from hf_td.baselines.trainer import BaselineTrainer
from hf_td.patching.patch import find_patch
from hf_td.recipes import RECIPES
from tests.tiny import tiny_model
from tests.training.models import arguments, assert_same_weights, examples


class Seen(TrainerCallback):
    """Keeps what each training starts with."""

    def __init__(self, look: Any) -> None:
        self.look, self.found = look, []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found.append(self.look(kwargs["model"]))


class Trial(dict[str, Any]):
    """The settings of a trial, with what the Trainer asks of a trial of optuna."""

    number = 0

    @property
    def params(self) -> dict[str, Any]:
        return dict(self)


def search(trainer: Any, trials: list[dict[str, Any]]) -> None:
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    trainer.hp_space = dict
    for trial in trials:
        trainer.train(trial=Trial(trial))


def searching(folder: Any, look: Any, kind: Any = TargetedDropoutTrainer, **own: Any) -> Any:
    args = arguments(folder, **{"level": "unit", "max_steps": 2, **own.pop("settings", {})})
    seen = Seen(look)
    trainer = kind(
        args=args,
        model_init=lambda: tiny_model("bert"),
        train_dataset=examples("bert", 8),
        callbacks=[seen],
        **own,
    )
    return trainer, seen


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("targeting", [0.75, 0.25, 0.5]),
        ("drop_rate", [0.5, 0.25]),
        ("importance", ["magnitude", "activation"]),
        ("level", ["weight", "unit"]),
        ("attention_level", ["none", "unit"]),
    ],
)
def test_a_model_is_patched_with_the_settings_of_its_trial(setting, values, tmp_path):
    def look(model: Any) -> Any:
        patch = find_patch(model)
        assert patch is not None
        return getattr(patch.config, setting)

    trainer, seen = searching(tmp_path, look)
    search(trainer, [{setting: value} for value in values])
    assert seen.found == values


def test_schedules_belong_to_the_trial(tmp_path):
    trainer, seen = searching(tmp_path, lambda m: find_patch(m).config.drop_rate_schedule.end)  # pyright: ignore
    search(trainer, [{"drop_rate_end": 0.25}, {"drop_rate_end": 1.0}])
    assert seen.found == [0.25, 1.0]


def test_a_trial_that_cannot_be_is_refused_by_name(tmp_path):
    trainer, _ = searching(tmp_path, id)
    with pytest.raises(ValueError, match="targeting"):
        search(trainer, [{"targeting": 1.5}])


def test_a_baseline_is_attached_with_the_settings_of_its_trial(tmp_path):
    found = []
    trainer, _ = searching(tmp_path, id, BaselineTrainer, baseline=L1(penalty=0.1))
    attach = trainer._attach
    trainer._attach = lambda model: (
        found.append(trainer.args.targeted_dropout().level) or attach(model)
    )
    search(trainer, [{"level": "weight"}, {"level": "unit"}])
    assert found == ["weight", "unit"]


def test_the_teacher_is_that_of_the_trial(tmp_path):
    names = []
    for seed in (1, 2):
        names.append(str(tmp_path / str(seed)))
        tiny_model("bert", seed=seed).save_pretrained(names[-1])
    trainer, seen = searching(
        tmp_path, lambda _: trainer._teacher.config._name_or_path, settings={"teacher": names[0]}
    )
    search(trainer, [{"teacher": name} for name in (*names, names[0])])
    assert seen.found == [*names, names[0]]


def test_a_search_by_the_full_weights_warns(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Trainer, "hyperparameter_search", lambda self, *_: "done")
    for sparsity, warns in ((None, True), (0.5, False)):
        caplog.clear()
        trainer, _ = searching(tmp_path, id, settings={"eval_sparsity": sparsity})
        assert trainer.hyperparameter_search() == "done"
        assert ("Set eval_sparsity" in caplog.text) is warns


@pytest.mark.parametrize(
    ("metrics", "objective"),
    [
        ({"eval_accuracy": 0.5, "eval_accuracy_at_0.5": 0.25}, 0.75),
        ({}, 0.75),
    ],
)
def test_a_loss_at_a_sparsity_is_no_metric_to_maximise(metrics, objective, tmp_path, monkeypatch):
    found: list[Any] = []
    monkeypatch.setattr(
        Trainer, "hyperparameter_search", lambda self, space, objective: found.append(objective)
    )
    trainer, _ = searching(tmp_path, id, settings={"eval_sparsity": 0.5})
    trainer.hyperparameter_search()
    trainer.hyperparameter_search(compute_objective=len)
    losses = {"eval_loss": 0.5, "eval_loss_at_0.5": 0.75, "epoch": 1.0, "eval_runtime": 3.0}
    assert found[0]({**losses, **metrics}) == objective
    assert found[0]({"eval_loss": 0.5, "epoch": 1.0}) == 0.5
    assert found[1] is len


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_a_trial_has_the_gradients_of_its_own_accumulation(tmp_path):
    def norms(*accumulations: int) -> list[float]:
        settings = {"per_device_train_batch_size": 2}
        trainer, _ = searching(tmp_path, id, settings=settings)
        search(trainer, [{"gradient_accumulation_steps": number} for number in accumulations])
        return logged(trainer, "grad_norm")

    assert norms(1, 4) == norms(4)
    assert norms(4, 1) == norms(1)


@pytest.mark.parametrize("recipe", ["one_sparsity", "language_model"])
def test_a_trial_with_a_recipe_has_all_of_its_values(recipe, tmp_path):
    def rates(trainer: Any) -> list[Any]:
        return [[group["lr"] for group in trainer.optimizer.param_groups], logged(trainer, "loss")]

    settings = {"targeting": None, "targeting_schedule": None, "drop_rate": None}
    settings |= {
        "max_steps": 6,
        "targeting_end": None,
        "drop_rate_schedule": None,
        "drop_rate_initial": None,
    }
    trial, _ = searching(tmp_path, id, settings=settings)
    search(trial, [{"recipe": "paper"}, {"recipe": recipe}])
    alone, _ = searching(tmp_path, id, settings={**settings, "recipe": recipe})
    alone.train()
    for name, value in RECIPES[recipe].for_training().items():
        assert getattr(trial.args, name) == value == getattr(alone.args, name)
    assert rates(trial) == rates(alone)


def test_what_a_trial_gives_comes_before_its_recipe(tmp_path):
    trainer, _ = searching(tmp_path, id)
    search(trainer, [{"recipe": "language_model", "untargeted_lr_scale": 2.0}])
    assert trainer.args.untargeted_lr_scale == 2
    trainer.args.untargeted_lr_scale = 3.0
    trainer.train()
    assert trainer.args.untargeted_lr_scale == 3


def test_a_trial_has_the_mean_of_its_own_decay(tmp_path):
    phase = {"level": "weight", "max_steps": 6, "fixed_sparsity": 0.5, "fixed_from": 0.5}
    decays = [0.9, 0.5, 0.0]
    trainer, _ = searching(tmp_path, id, settings=phase)
    for decay in decays:
        search(trainer, [{"average": decay}])
        alone, _ = searching(tmp_path, id, settings={**phase, "average": decay})
        alone.train()
        assert_same_weights(trainer.model, alone.model)
