"""N:M patterns: the lowest of each group of neighbours along the fan-in are candidates."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import set_seed

from hf_td import (
    TargetedDropoutConfig,
    TargetedDropoutTrainer,
    anneal,
    functional,
    patch_model,
    prune_model,
    pruning_curve,
    read_anatomy,
)
from hf_td.config import configure
from hf_td.functional import lowest_neighbours
from hf_td.patching.layers import kept
from hf_td.patching.patch import find_patch
from hf_td.pruning import Budget
from hf_td.training import TargetedDropoutArguments
from tests.families import tiny_family
from tests.tiny import tiny_inputs, tiny_model


def test_the_candidates_of_2_4_by_hand():
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0, 9.0, 0.0, 9.0], [1, 2, 3, 4, 4, 3, 2, 1]])
    expected = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1, 1]]).bool()
    assert torch.equal(lowest_neighbours(scores, 2, 4), expected)
    assert torch.equal(lowest_neighbours(scores.T, 2, 4, dim=0), expected.T)
    assert torch.equal(lowest_neighbours(scores.T[None], 2, 4, dim=1), expected.T[None])


@given(
    st.integers(2, 20).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m))), st.data()
)
def test_each_group_has_its_lowest_and_of_equals_the_first(pattern, data):
    lowest, of = pattern
    groups = data.draw(st.integers(1, 3))
    values = st.lists(st.integers(0, 3), min_size=groups * of, max_size=groups * of)
    row = data.draw(values)
    got = lowest_neighbours(torch.tensor(row, dtype=torch.float32), lowest, of).tolist()
    for start in range(0, len(row), of):
        ranked = sorted(range(start, start + of), key=lambda place: (row[place], place))
        assert {p for p in range(start, start + of) if got[p]} == set(ranked[:lowest])


@pytest.mark.parametrize("dim", [0, 1])
def test_many_neighbours_are_sorted_to_the_same_result(dim, monkeypatch):
    scores = torch.randint(0, 5, (48, 48), generator=torch.Generator().manual_seed(0)).float()
    compared = [lowest_neighbours(scores, 5, of, dim) for of in (8, 16)]
    monkeypatch.setattr(functional, "_FEW_NEIGHBOURS", 2)
    for of, expected in zip((8, 16), compared, strict=True):
        assert torch.equal(lowest_neighbours(scores, 5, of, dim), expected)


def test_a_large_pattern_takes_no_time():
    scores = torch.rand(768, 768)
    begun = time.process_time()  # others may use the processor
    assert int(lowest_neighbours(scores, 1, 768).sum()) == 768
    assert time.process_time() - begun < 2  # pair by pair it took 12 seconds


def zeros_per_group(layer: Any, of: int) -> Tensor:
    """Return the number of zeros in each group, by a slow loop."""
    weight = layer.weight.detach()
    rows = weight.T if type(layer).__name__.endswith("Conv1D") else weight
    return torch.tensor(
        [[int((r[i : i + of] == 0).sum()) for i in range(0, len(r), of)] for r in rows]
    )


def patch_of(model: Any) -> Any:
    return find_patch(model)


def projections(model: Any) -> list[Any]:
    names = {name for block in read_anatomy(model).blocks for name in block.modules}
    return [model.get_submodule(name) for name in sorted(names)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize(("pattern", "zeros", "of"), [("2:4", 2, 4), ("3:8", 3, 8), ("1:2", 1, 2)])
def test_every_group_has_exactly_n_zeros_after_pruning(family, pattern, zeros, of):
    model = tiny_model(family)
    report = prune_model(model, zeros / of, level="weight", pattern=pattern)
    for layer in projections(model):
        assert (zeros_per_group(layer, of) == zeros).all()
    assert report.sparsity == zeros / of
    assert {layer.sparsity for layer in report.layers} == {zeros / of}


def test_experts_have_the_pattern_along_their_own_fan_in():
    for family in ("mixtral", "gpt_oss"):  # (experts, out, in) and (experts, in, out)
        model = tiny_family(family)
        report = prune_model(model, 0.5, level="weight", pattern="2:4")
        assert report.sparsity == 0.5
        experts: Any = next(m for m in model.modules() if hasattr(m, "is_transposed"))
        dim = 1 if experts.is_transposed else 2
        for stack in (experts.gate_up_proj, experts.down_proj):
            zeros = (stack.detach() == 0).movedim(dim, -1).unflatten(-1, (-1, 4)).sum(-1)
            assert (zeros == 2).all()


@settings(max_examples=20)
@given(st.floats(0, 0.5))
def test_below_the_pattern_no_group_loses_more_than_n(sparsity):
    model = tiny_model("bert")
    prune_model(model, sparsity, level="weight", pattern="2:4")
    for layer in projections(model):
        zeros = zeros_per_group(layer, 4)
        assert int(zeros.max()) <= 2
        fan_in = layer.weight.shape[1]
        assert (zeros.sum(1) == int(sparsity * fan_in + 1e-6)).all()


def test_what_goes_below_the_pattern_are_the_lowest_of_its_candidates():
    model = tiny_model("bert")
    layer: Any = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    row = torch.tensor([4.0, 1.0, 3.0, 2.0] * 8)
    layer.weight.data[0] = row + torch.arange(32) * 1e-3
    prune_model(model, 3 / 32, level="weight", pattern="2:4", importance="magnitude")
    assert (layer.weight[0] == 0).nonzero().flatten().tolist() == [1, 5, 9]


def test_a_global_budget_keeps_to_the_pattern():
    model = tiny_model("bert")
    budget = Budget(kind="global", floor=0.0)
    report = prune_model(model, 0.3, level="weight", pattern="2:4", budget=budget)
    assert report.sparsity == pytest.approx(0.3, abs=0.01)
    assert len({layer.sparsity for layer in report.layers}) > 1
    assert all(int(zeros_per_group(layer, 4).max()) <= 2 for layer in projections(model))


@pytest.mark.parametrize("importance", ["magnitude", "activation", "random"])
def test_training_drops_what_the_pattern_says_and_pruning_takes_just_that(importance):
    model = tiny_model("bert")
    patch_model(model, level="weight", pattern="2:4", importance=importance)
    inputs = tiny_inputs(model)
    anneal(model.train(), 0.5, 0)
    model(**inputs)  # measures activations
    rates = anneal(model, 1.0, 1)
    assert (rates.targeting, rates.drop_rate) == (0.5, 1.0)
    for site in patch_of(model).sites:
        groups = (~kept(site.layer)).unflatten(1, (-1, 4)).sum(-1)
        assert (groups == 2).all()
    if importance == "random":
        return
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        masked = model(**inputs).logits
        # The same activations rank: those that the second update saw.
        patch_of(model).update_averages = lambda: None
        prune_model(model, 0.5)
        torch.testing.assert_close(model.eval()(**inputs).logits, masked)


def test_the_targeting_grows_inside_the_pattern():
    model = tiny_model("bert")
    patch_model(model, level="weight", pattern="2:4", importance="magnitude")
    for progress, wanted in ((0.0, 0.0), (0.2, None), (0.6, 0.5)):
        rates = anneal(model.train(), progress, 1)
        site = patch_of(model).sites[0]
        dropped = ~kept(site.layer)
        assert (dropped.sum(1) == int(rates.targeting * 32 + 1e-6)).all()
        assert int(dropped.unflatten(1, (-1, 4)).sum(-1).max()) <= 2
        assert wanted is None or rates.targeting == wanted


def test_settings():
    config = TargetedDropoutConfig(pattern="2:4")
    assert config.targeting == 0.5
    assert config.neighbours == (2, 4)
    assert TargetedDropoutConfig.from_json(config.to_json()) == config
    assert TargetedDropoutConfig(pattern="1:4", targeting=0.25).targeting == 0.25
    assert TargetedDropoutConfig(pattern="3:4", attention_level="unit").targeting == 0.75
    assert configure(TargetedDropoutConfig(), {"pattern": "2:4"}).targeting == 0.5
    assert configure(config, {"pattern": None}) == TargetedDropoutConfig()
    assert configure(config, {"pattern": None, "level": "unit"}).targeting == 0.76
    assert configure(config, {"pattern": "1:4"}).targeting == 0.25
    assert configure(config, {"seed": 1}).targeting == 0.5
    assert TargetedDropoutArguments(pattern="1:2").targeted_dropout().targeting == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "4:2"}, "pattern is 'N:M' with 0 < N < M, such as '2:4', got '4:2'"),
        ({"pattern": "0:4"}, "0 < N < M"),
        ({"pattern": "2-4"}, "got '2-4'"),
        ({"pattern": (2, 4)}, r"got \(2, 4\)"),
        ({"pattern": "2:4", "level": "unit"}, "ranks neighbouring weights"),
        ({"pattern": "2:4", "targeting": 0.9}, "makes 0.5 of the weights .* targeting is 0.9"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TargetedDropoutConfig(**values)


def test_more_than_the_pattern_takes_is_refused_before_anything_happens():
    model = tiny_model("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = r"takes 0\.5 of the weights of .*query at most, but the sparsity is 0\.6\. Prune to"
    with pytest.raises(ValueError, match=message):
        prune_model(model, 0.6, level="weight", pattern="2:4")
    with pytest.raises(ValueError, match=message):
        pruning_curve(model, [0.1, 0.6], lambda _: pytest.fail("evaluated"), pattern="2:4")
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_fan_in_that_does_not_divide_is_refused():
    model = tiny_model("bert")  # of 32 and 64 inputs
    message = r"the 32 inputs of .*query .* groups of 5 neighbours\. .* exclude=\['bert"
    with pytest.raises(ValueError, match=message):
        patch_model(model, level="weight", pattern="2:5")
    assert find_patch(model) is None


def trained(folder: Any, until: int | None = None, resume: str | None = None) -> Any:
    set_seed(0)
    data = [{"input_ids": torch.arange(3, 10) + i, "labels": i % 2} for i in range(16)]
    arguments = TargetedDropoutArguments(
        output_dir=str(folder),
        pattern="2:4",
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = TargetedDropoutTrainer(tiny_model("bert"), arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    model = trained(tmp_path)
    again = trained(tmp_path, resume=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert again.config.targeted_dropout["pattern"] == "2:4"
