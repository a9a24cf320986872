"""Whole runs by every method: training, resuming, the stock model, and pruning."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from hf_td import TargetedDropoutArguments, TargetedDropoutSeq2SeqArguments, prune_model
from hf_td.analysis import pruning_curve
from hf_td.baselines import (
    L0,
    L1,
    Baseline,
    BaselineSeq2SeqTrainer,
    BaselineTrainer,
    Dropout,
    Movement,
    QuantalSynapticDilution,
    RandomSubnetwork,
    Smallify,
    SoftMovement,
    VariationalDropout,
    attach_baseline,
    find_baseline,
    finish_baseline,
)
from hf_td.config import TargetedDropoutConfig
from hf_td.patching.patch import patch_model
from hf_td.pruning import sites_to_prune
from hf_td.ranking.learned import FILE, find_learned
from tests.families import tiny_family
from tests.tiny import tiny_inputs, tiny_model
from tests.training.models import (
    QUIET,
    STEPS,
    arguments,
    assert_same_weights,
    examples,
    saving_halfway,
)

METHODS: dict[str, Baseline] = {
    "dropout": Dropout(),
    "quantal": QuantalSynapticDilution(),
    "l1": L1(),
    "l0": L0(closed=0.3, learning_rate=0.5),
    "variational": VariationalDropout(),
    "smallify": Smallify(learning_rate=0.8),
    "random_subnetwork": RandomSubnetwork(sparsity=0.5),
    "movement": Movement(sparsity=0.5, end=0.5),
    "soft_movement": SoftMovement(learning_rate=0.5, end=0.5),
}
LEARNING = {"l0", "variational", "smallify", "movement", "soft_movement"}
every_method = pytest.mark.parametrize("name", METHODS)
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def trainer_of(model: Any, baseline: Baseline, folder: Path, family: str = "bert", **settings: Any):
    kinds = (TargetedDropoutArguments, BaselineTrainer)
    if family == "t5":
        kinds = (TargetedDropoutSeq2SeqArguments, BaselineSeq2SeqTrainer)
    arguments: Any = kinds[0](str(folder), **{**QUIET, **settings})
    return kinds[1](model, arguments, train_dataset=examples(family), baseline=baseline)


def shapes_of(model: nn.Module) -> dict[str, Any]:
    """Return the class and the hooks of each module, by name."""
    return {
        name: (type(module), {**module._forward_hooks}, {**module._forward_pre_hooks})
        for name, module in model.named_modules()
    }


@every_method
@every_level
def test_a_run_ends_with_a_stock_checkpoint_that_is_pruned_by_what_was_learned(
    name, level, tmp_path
):
    model = tiny_model("bert")
    before = {n: type(m) for n, m in model.named_modules()}
    keys, parameters = list(model.state_dict()), list(model.parameters())
    trainer = trainer_of(model, METHODS[name], tmp_path / "run", level=level, max_steps=3)
    trainer.train()
    assert {n: type(m) for n, m in model.named_modules()} == before
    assert list(model.state_dict()) == keys
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    learned = find_learned(model)
    assert bool(learned) == (name in LEARNING)
    trainer.save_model(str(tmp_path / "model"))
    assert (tmp_path / "model" / FILE).is_file() == bool(learned)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert_same_weights(loaded, model)

    importance = "learned" if learned else "magnitude"
    report = prune_model(loaded, 0.5, level=level)
    assert report.sparsity >= 0.5
    prune_model(model, 0.5, level=level, importance=importance)
    assert_same_weights(loaded, model)


@every_method
def test_an_update_trains_the_weights_and_what_the_method_learns(name, tmp_path):
    model = tiny_model("bert")
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = trainer_of(model, METHODS[name], tmp_path, level="unit", max_steps=1)
    seen: dict[str, Any] = {}

    def look(*args: Any, **kwargs: Any) -> Any:
        found = find_baseline(model)
        assert found is not None
        seen.update({n: p.detach().clone() for n, p in found.named_parameters()})
        return step(*args, **kwargs)

    step = trainer.training_step
    trainer.training_step = look
    trainer.train()
    assert bool(seen) == (name in LEARNING)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, start[n])]
    assert "bert.encoder.layer.0.intermediate.dense.weight" in moved
    assert "classifier.weight" in moved


@pytest.mark.parametrize(
    ("name", "family", "level", "accumulation"),
    [
        ("l0", "bert", "unit", 2),
        ("l0", "gpt2", "weight", 1),
        ("variational", "bert", "weight", 2),
        ("variational", "llama", "unit", 1),
        ("smallify", "vit", "unit", 1),
        ("movement", "bert", "weight", 1),
        ("soft_movement", "t5", "unit", 1),
        ("dropout", "llama", "unit", 2),
        ("quantal", "bert", "weight", 1),
        ("random_subnetwork", "gpt2", "weight", 1),
        ("l1", "bert", "unit", 1),
    ],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    name, family, level, accumulation, tmp_path
):
    settings = saving_halfway(level, accumulation)
    method = METHODS[name]
    whole = trainer_of(tiny_model(family), method, tmp_path / "a", family, **settings)
    whole.train()
    checkpoint = str(tmp_path / "a" / f"checkpoint-{STEPS // 2}")
    settings["save_strategy"] = "no"
    resumed = trainer_of(tiny_model(family, seed=1), method, tmp_path / "b", family, **settings)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == STEPS
    assert_same_weights(resumed.model, whole.model)
    ours, theirs = find_learned(resumed.model), find_learned(whole.model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@every_method
@every_level
def test_finishing_changes_no_output(name, level):
    model = tiny_model("bert")
    baseline = METHODS[name]
    attach_baseline(model, baseline, TargetedDropoutConfig(level=level), examples=10)
    found = find_baseline(model)
    assert found is not None
    torch.manual_seed(0)
    for parameter in found.parameters():
        parameter.data += 1.8 * (torch.rand_like(parameter) - 0.5)
    found.advance(0.9, update=3)
    model.eval()
    inputs = tiny_inputs(model)
    with torch.no_grad():
        during = model(**inputs).logits
        finish_baseline(model)
        torch.testing.assert_close(model(**inputs).logits, during)


@every_method
@every_level
def test_a_model_in_bfloat16_trains_and_stays_in_it(name, level):
    model: Any = tiny_model("bert").train().bfloat16()
    attach_baseline(model, METHODS[name], TargetedDropoutConfig(level=level), examples=10)
    found = find_baseline(model)
    assert found is not None
    found.advance(0.5, update=1)
    logits = model(**tiny_inputs(model)).logits
    assert logits.dtype == torch.bfloat16
    penalty = found.penalty()
    (logits.float().sum() + (0 if penalty is None else penalty)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in found.parameters())
    finish_baseline(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_nothing_changes_in_eval_mode_before_training():
    for name, method in METHODS.items():
        if name in ("random_subnetwork", "l0"):
            continue
        model = tiny_model("bert")
        inputs = tiny_inputs(model)
        with torch.no_grad():
            expected = model(**inputs).logits
            attach_baseline(model, method, TargetedDropoutConfig(level="unit"))
            torch.testing.assert_close(model(**inputs).logits, expected)


@pytest.mark.parametrize("name", ["l0", "movement", "random_subnetwork", "dropout", "l1"])
@every_level
def test_experts_are_treated(name, level, tmp_path):
    model = tiny_family("mixtral")
    keys = list(model.state_dict())
    attach_baseline(model, METHODS[name], TargetedDropoutConfig(level=level), examples=10)
    found = find_baseline(model)
    assert found is not None
    found.advance(0.9, update=0)
    loss = model.train()(**tiny_inputs(model), labels=tiny_inputs(model)["input_ids"]).loss
    penalty = found.penalty()
    (loss if penalty is None else loss + penalty).backward()
    assert all(p.grad is not None for p in found.parameters())
    finish_baseline(model)
    assert list(model.state_dict()) == keys
    if name in LEARNING:
        assert prune_model(model, 0.5, level=level).sparsity > 0.4


def test_variational_dropout_refuses_experts():
    with pytest.raises(TypeError, match=r"variational dropout cannot reach .*experts"):
        attach_baseline(
            tiny_family("mixtral"), VariationalDropout(), TargetedDropoutConfig(), examples=10
        )


@dataclass(frozen=True, kw_only=True)
class RefusingLast(Baseline):
    """A method that treats all layers as another does, but fails at a step of the last one."""

    method: Baseline
    step: str

    def treat(self, sites, config):
        treatment: Any = self.method.treat(sites, config)
        if sites[0].name == "bert.encoder.layer.1.output.dense":
            self.refuse("treat")
            treatment.attach = lambda attach=treatment.attach: (attach(), self.refuse("attach"))
        return treatment

    def refuse(self, step: str) -> None:
        if step == self.step:
            raise ValueError(f"refused in {step}")


@every_method
@every_level
@pytest.mark.parametrize("step", ["treat", "attach"])
def test_a_model_that_is_refused_is_left_as_it_was(name, level, step):
    model = tiny_model("bert").train()
    before = shapes_of(model)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    config = TargetedDropoutConfig(level=level)
    with pytest.raises(ValueError, match=f"refused in {step}"):
        attach_baseline(model, RefusingLast(method=METHODS[name], step=step), config)
    assert shapes_of(model) == before
    assert list(model.state_dict()) == keys
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    attach_baseline(model, METHODS[name], config)


def test_the_parameters_of_a_method_have_their_own_learning_rate(tmp_path):
    trainer = trainer_of(tiny_model("bert"), L0(learning_rate=0.3), tmp_path, weight_decay=0.1)
    attach_baseline(trainer.model, trainer.baseline, TargetedDropoutConfig(), examples=10)
    found = find_baseline(trainer.model)
    assert found is not None
    groups = trainer.create_optimizer().param_groups
    own = {id(p) for p in found.parameters()}
    theirs = [g for g in groups if {id(p) for p in g["params"]} == own]
    assert [(g["lr"], g["weight_decay"]) for g in theirs] == [(0.3, 0.0)]
    assert sum(len(g["params"]) for g in groups) == len(list(trainer.model.parameters()))


def test_an_optimiser_that_does_not_know_the_method_is_refused(tmp_path):
    trainer = trainer_of(tiny_model("bert"), L0(), tmp_path)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="L0 has parameters that the given optimiser does not kno"):
        trainer.train()


def test_the_penalty_is_part_of_the_loss_and_of_the_log(tmp_path):
    losses = {}
    for penalty in (0.0, 100.0):
        settings: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 4}
        trainer = trainer_of(tiny_model("bert"), L1(penalty=penalty), tmp_path, **settings)
        trainer.train()
        losses[penalty] = trainer.state.log_history[0]
    added = losses[100.0]["loss"] - losses[0.0]["loss"]
    model = tiny_model("bert")
    sites = sites_to_prune(model, TargetedDropoutConfig(importance="magnitude"))
    expected = 100 * sum(float(site.layer.weight.detach().abs().mean()) for site in sites)
    assert added == pytest.approx(expected, rel=1e-3)
    # The log follows the update, which changed the weights a little.
    assert losses[100.0]["penalty"] == pytest.approx(expected, rel=0.5)
    assert losses[0.0]["penalty"] == 0


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_penalty_counts_once_in_an_update(family, tmp_path):
    """Llama divides its loss over the micro-batches itself; others leave that to the Trainer."""
    losses = {}
    for penalty, accumulation in product((0.0, 10.0), (1, 2)):
        settings: dict[str, Any] = {
            "max_steps": 1,
            "per_device_train_batch_size": 4 // accumulation,
            "gradient_accumulation_steps": accumulation,
        }
        trainer = trainer_of(tiny_model(family), L1(penalty=penalty), tmp_path, family, **settings)
        trainer.train()
        losses[penalty, accumulation] = trainer.state.log_history[0]["loss"]
    added = [losses[10.0, n] - losses[0.0, n] for n in (1, 2)]
    assert added[0] == pytest.approx(added[1], rel=1e-4)
    assert added[0] > 1


def test_a_trainer_with_model_init_attaches_to_the_fresh_model(tmp_path):
    arguments = TargetedDropoutArguments(str(tmp_path), level="unit", **QUIET)
    trainer = BaselineTrainer(
        args=arguments,
        model_init=lambda: tiny_model("bert"),
        train_dataset=examples("bert"),
        baseline=Movement(),
    )
    trainer.train()
    assert type(trainer.model) is BertForSequenceClassification
    assert find_learned(trainer.model)


def test_a_model_is_trained_again(tmp_path):
    model = tiny_model("bert")
    trainer = trainer_of(model, L0(closed=0.3, learning_rate=0.5), tmp_path, level="unit")
    trainer.train()
    first = find_learned(model)
    trainer.train()
    second = find_learned(model)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert type(model.get_submodule("bert.encoder.layer.0.output.dense")) is nn.Linear


def test_a_curve_ranks_by_what_was_learned(tmp_path):
    model = tiny_model("bert")
    trainer = trainer_of(model, Movement(sparsity=0.75), tmp_path, level="unit")
    trainer.train()
    scores = find_learned(model)["bert.encoder.layer.0.output.dense"]
    columns = []

    def evaluate(pruned: Any) -> float:
        weight = pruned.bert.encoder.layer[0].output.dense.weight
        columns.append((weight == 0).all(0))
        return 0.0

    config = TargetedDropoutConfig(level="unit", importance="learned")
    pruning_curve(model, [0.25, 0.875], evaluate, config)
    lowest = scores.argsort()[:56]
    assert columns[1][lowest].all()
    assert int(columns[1].sum()) == 56


# --- what is refused ---


def test_scores_of_another_level_are_refused(tmp_path):
    model = tiny_model("bert")
    trainer_of(model, Movement(), tmp_path, level="unit").train()
    with pytest.raises(ValueError, match=r"The learned scores of .*query and 7 more layers are"):
        prune_model(model, 0.5, level="weight", importance="learned")


def test_a_model_without_scores_cannot_be_ranked_by_them():
    with pytest.raises(ValueError, match=r"learned scores of .* missing.* Train with a method"):
        prune_model(tiny_model("bert"), 0.5, importance="learned")


def test_learned_scores_cannot_target():
    with pytest.raises(
        ValueError, match="importance 'learned' can rank for pruning, but not while"
    ):
        patch_model(tiny_model("bert"), importance="learned")


def test_a_model_is_not_pruned_under_a_gate():
    model = attach_baseline(tiny_model("bert"), Dropout(), TargetedDropoutConfig(level="unit"))
    with pytest.raises(ValueError, match=r"output\.dense is no parameter but computed, as"):
        prune_model(model, 0.5, level="unit")


def test_a_model_has_one_baseline_or_is_patched():
    model = attach_baseline(tiny_model("bert"), L1())
    with pytest.raises(ValueError, match="is patched, or has a baseline already"):
        attach_baseline(model, L1())
    with pytest.raises(ValueError, match="is patched, or has a baseline already"):
        attach_baseline(patch_model(tiny_model("bert")), L1())
    finish_baseline(model)
    with pytest.raises(ValueError, match=r"has no baseline\. Call attach_baseline first"):
        finish_baseline(model)


def test_training_again_after_an_interruption_goes_on(tmp_path, monkeypatch):
    """The optimiser that the Trainer created before has the parameters already."""
    trainer = trainer_of(tiny_model("bert"), METHODS["l0"], tmp_path)

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(trainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps


def test_an_optimiser_that_does_not_know_the_parameters_is_refused(tmp_path):
    model = tiny_model("bert")
    stranger = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = trainer_of(model, METHODS["l0"], tmp_path)
    trainer.optimizer = stranger
    with pytest.raises(ValueError, match="the given optimiser does not know"):
        trainer.train()


# Where fewer checkpoints are saved than evaluated, the best evaluation can be of none of them.
@pytest.mark.parametrize(("peak", "save_steps", "loaded"), [(1, 1, 1), (3, 2, 2)])
def test_the_best_checkpoint_is_finished_as_it_was_measured(peak, save_steps, loaded, tmp_path):
    class Peaking(BaselineTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            found = super().evaluate(*args, **kwargs)
            found["eval_score"] = -abs(self.state.global_step - peak)
            losses.append(found["eval_loss"])
            return found

    losses: list[float] = []
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    every["save_steps"] = save_steps
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score"}
    args = arguments(tmp_path, **every, **best, greater_is_better=True, level="weight")
    data = examples("bert", 16)
    model: Any = tiny_model("bert")
    trainer = Peaking(
        model, args, train_dataset=data, eval_dataset=data, baseline=Movement(sparsity=0.9)
    )
    trainer.train()
    assert trainer.state.best_global_step == peak
    removed = (model.bert.encoder.layer[0].output.dense.weight == 0).float().mean()
    fraction = 0.9 * Movement().schedule((loaded - 1) / trainer.state.max_steps)
    assert float(removed) == pytest.approx(fraction, abs=0.02)
    # The mask is ranked once more, after the last update.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[loaded - 1], rel=1e-3)
