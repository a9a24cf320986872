"""Mistakes in training that raise no error are warned of once, and ordinary use is quiet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_td import (
    TargetedDropoutArguments,
    TargetedDropoutCallback,
    TargetedDropoutTrainer,
    anneal,
    patch_model,
    prune_model,
    pruning_curve,
    unpatch_model,
)
from tests.patching.models import HALF, patch_of, patched, train_step
from tests.tiny import tiny_inputs, tiny_model
from tests.training.models import QUIET, examples

UPDATES = 5
Do = Callable[[Any], Any]


def forward(model: Any) -> Any:
    return model(**tiny_inputs(model)).logits


def step(model: Any, micro_batches: int = 1) -> None:
    """Update the weights in the mode that the model is in."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(micro_batches):
        forward(model).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def loop(model: Any, *, annealed: bool, before: Do = torch.nn.Module.train, **options: Any) -> Any:
    for update in range(UPDATES):
        if annealed:
            anneal(model, update / UPDATES, update)
        before(model)
        step(model, **options)
    return model


def nothing(model: Any) -> None:
    """Leave the model in the mode that it is in."""


def warnings_of(caplog: Any) -> list[str]:
    ours = [record for record in caplog.records if record.name == "hf_td.patching.mistakes"]
    return [record.getMessage() for record in ours]


every_way = pytest.mark.parametrize("annealed", [True, False])


# --- updates in eval mode ---


@every_way
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_updates_in_eval_mode_are_warned_of_once(family, micro_batches, annealed, caplog):
    model = patched(family)  # like a model that was just loaded, in eval mode
    loop(model, annealed=annealed, before=nothing, micro_batches=micro_batches)
    (message,) = warnings_of(caplog)
    assert f"weights of the patched {type(model).__name__} are trained in eval mode" in message
    assert "Call model.train()" in message
    loop(model.train(), annealed=annealed)
    loop(model.eval(), annealed=annealed, before=nothing)
    assert len(warnings_of(caplog)) == 1


@every_way
def test_eval_mode_left_on_after_an_evaluation_is_warned_of(annealed, caplog):
    model = loop(patched("bert"), annealed=annealed)
    assert not warnings_of(caplog)
    loop(model.eval(), annealed=annealed, before=nothing)
    assert len(warnings_of(caplog)) == 1


def test_a_copy_watches_for_itself(caplog):
    model = patched("bert")
    other = copy.deepcopy(model)
    loop(model, annealed=True)
    loop(other, annealed=True, before=nothing)
    assert len(warnings_of(caplog)) == 1
    assert not patch_of(model).watch.warned


def evaluate(model: Any) -> None:
    """Evaluate and forget `torch.no_grad`."""
    forward(model.eval())


def evaluate_twice_in_each_update(model: Any) -> None:
    evaluate(model)
    evaluate(model)
    model.train()


def probe_gradients(model: Any) -> None:
    forward(model.eval()).sum().backward()
    model.zero_grad()
    model.train()


def swap_in_averages(model: Any) -> None:
    """Evaluate the weights, averaged ones in their place, and the weights again."""
    own = copy.deepcopy(model.state_dict())
    evaluate(model)
    model.load_state_dict({name: value * 0.5 for name, value in own.items()})
    evaluate(model)
    model.load_state_dict(own)
    evaluate(model)
    model.train()


@every_way
@pytest.mark.parametrize(
    "before",
    [
        torch.nn.Module.train,
        evaluate_twice_in_each_update,
        probe_gradients,
        swap_in_averages,
    ],
)
def test_training_with_evaluations_is_quiet(before, annealed, caplog):
    model = loop(patched("bert"), annealed=annealed, before=before)
    assert patch_of(model).updates == UPDATES
    assert not warnings_of(caplog)


@every_way
def test_sweeps_over_sparsities_are_quiet(annealed, caplog):
    model = loop(patched("bert"), annealed=annealed)
    data = [{**tiny_inputs(model), "labels": torch.tensor([0, 1])}]
    for sparsity in (0.1, 0.2, 0.3, 0.4, 0.5):
        prune_model(model.eval(), sparsity)
        forward(model)
    prune_model(model, 0.6, importance="taylor", calibration=data)
    pruning_curve(model, [0.6, 0.7, 0.8, 0.9], evaluate=lambda m: float(forward(m).sum().detach()))
    assert not warnings_of(caplog)


def test_generation_is_quiet(caplog):
    model: Any = loop(patched("llama"), annealed=True)
    for _ in range(UPDATES):
        model.eval().generate(**tiny_inputs(model), max_new_tokens=2)
        step(model.train())
    assert not warnings_of(caplog)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_training_with_eager_evaluations_is_quiet(caplog):
    torch._dynamo.reset()
    model = patched("bert")
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(UPDATES):
        anneal(model.train(), 1.0, update)
        compiled(**tiny_inputs(model)).logits.square().mean().backward()
        optimizer.step()
        evaluate(model)
    assert not warnings_of(caplog)


def test_an_unpatched_model_is_not_watched(caplog):
    model = unpatch_model(loop(patched("bert"), annealed=True))
    assert not model._forward_pre_hooks
    for _ in range(UPDATES):
        step(model.eval())
    assert not warnings_of(caplog)


# --- a Trainer without a callback ---


def train(kind: Any, model: Any, folder: Any, **options: Any) -> None:
    settings = TargetedDropoutArguments if kind is TargetedDropoutTrainer else TrainingArguments
    args = settings(str(folder), **{**QUIET, "eval_strategy": "steps", "eval_steps": 2})
    data = examples("bert", 8)
    kind(model, args, train_dataset=data, eval_dataset=data, **options).train()


class OwnTrainer(Trainer):
    """A Trainer of another library."""


@pytest.mark.parametrize("kind", [Trainer, OwnTrainer])
def test_a_trainer_without_the_callback_is_warned_of_once(kind, tmp_path, caplog):
    train(kind, patched("bert"), tmp_path)
    (message,) = warnings_of(caplog)
    assert message.startswith(f"{kind.__name__} trains a patched BertForSequenceClassification")
    assert "callbacks=[TargetedDropoutCallback()]" in message


def test_a_trainer_with_the_callback_is_quiet(tmp_path, caplog):
    train(Trainer, patched("bert"), tmp_path, callbacks=[TargetedDropoutCallback()])
    train(TargetedDropoutTrainer, tiny_model("bert"), tmp_path)
    train(Trainer, tiny_model("bert"), tmp_path)
    assert not warnings_of(caplog)


def test_a_loop_that_counts_forwards_is_quiet(caplog):
    model = patch_model(tiny_model("bert"), **HALF)
    for _ in range(UPDATES):
        train_step(model)
    assert patch_of(model).updates == UPDATES
    assert not warnings_of(caplog)
