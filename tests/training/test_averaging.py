"""The weights are averaged over the fixed phase."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import TrainerCallback

from hf_td.training.averaging import FILE, AveragingCallback
from tests.tiny import tiny_model
from tests.training.models import STEPS, arguments, every_level, examples, trainer_of
from tests.training.test_fixed import FIXED

Weights = dict[str, torch.Tensor]


class History(TrainerCallback):
    """Records the weights after every update."""

    def __init__(self) -> None:
        self.weights: list[Weights] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(copied(kwargs["model"]))


def copied(model: Any) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(folder: Any, **settings: Any) -> tuple[Any, list[Weights]]:
    history = History()
    args = arguments(folder, **{**FIXED, "average": 1.0, **settings})
    model = tiny_model("bert")
    trainer = trainer_of(model, args, callbacks=[history], eval_dataset=examples("bert"))
    trainer.train()
    return trainer, history.weights


@every_level
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_the_model_has_the_mean_of_the_phase_and_its_zeros(decay, level, tmp_path):
    trainer, history = trained(tmp_path, average=decay, level=level)
    phase = history[STEPS // 2 :]
    shares = [1 / 3] * 3 if decay == 1 else [0.81, 0.09, 0.1]
    for name, value in copied(trainer.model).items():
        mean = sum(share * weights[name] for share, weights in zip(shares, phase, strict=True))
        assert_close(value, mean)
        zeros = phase[0][name] == 0
        assert torch.equal(value[zeros], torch.zeros_like(value[zeros]))
        if name.endswith("output.dense.weight"):
            assert zeros.float().mean() == 0.5


def test_evaluations_measure_the_mean_and_training_does_not_depend_on_them(tmp_path):
    evaluates = {"eval_strategy": "steps", "eval_steps": 1}
    trainer, history = trained(tmp_path, **evaluates)
    _, other = trained(tmp_path, **evaluates, average=0.0)
    assert all(torch.equal(history[-1][name], other[-1][name]) for name in other[-1])
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert trainer.evaluate()["eval_loss"] == losses[-1]
    trainer.model.load_state_dict(history[-1], strict=False)
    assert trainer.evaluate()["eval_loss"] != losses[-1]


def test_the_best_checkpoint_brings_its_own_mean(tmp_path):
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": True,  # whichever it is, it is one of the checkpoints
        "save_only_model": True,
    }
    trainer, _ = trained(tmp_path, **best)
    loss = trainer.evaluate()["eval_loss"]
    assert loss == trainer.state.best_metric
    files = [tmp_path / f"checkpoint-{step}" / FILE for step in range(1, STEPS + 1)]
    assert [file.is_file() for file in files] == [False] * 3 + [True] * 3


def test_means_of_half_precision_are_wide(tmp_path):
    model = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    averaging = AveragingCallback(1.0)
    for value in (1.0, 1.0, 1.0078125):
        torch.nn.init.constant_(model.weight, value)
        averaging.update(model)
    assert_close(averaging.mean["weight"], torch.full((2, 2), 1.0026041))
    averaging.save(tmp_path)
    again = AveragingCallback(1.0)
    again.load(tmp_path, model)
    assert again.count == 3
    assert torch.equal(again.mean["weight"], averaging.mean["weight"])


def test_means_of_another_model_are_refused(tmp_path):
    averaging, model = AveragingCallback(0.5), torch.nn.Linear(2, 2)
    averaging.update(model)
    averaging.save(tmp_path)
    with pytest.raises(ValueError, match="the mean of each trainable weight of Linear"):
        averaging.load(tmp_path, torch.nn.Linear(3, 2))
    save_file(load_file(tmp_path / FILE), tmp_path / FILE)  # without the number of updates
    with pytest.raises(ValueError, match="Resume from a checkpoint of this run"):
        averaging.load(tmp_path, model)
    averaging.load(tmp_path / "none", model)
    assert not averaging.mean
