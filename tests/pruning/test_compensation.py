"""What is removed is made up for in the weights that read the rest, exactly where it can be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification

from hf_td import prune_model, read_anatomy
from hf_td.analysis import pruning_curve
from hf_td.anatomy import find_layer
from hf_td.pruning import compensation, kept_weights, select_sites, sites_to_prune
from hf_td.pruning.compensation import remove_and_compensate
from tests.tiny import FAMILIES, TEXT, tiny_inputs, tiny_model, with_random_biases


def logits(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def repeat_a_unit(model: Any, block: Any, old: int = 0, new: int = 1) -> None:
    """Give a unit of a block the values of another one."""
    for projection in block.producers:
        layer: Any = find_layer(model, projection.module)
        weight = layer.weight.data.movedim(projection.feature_dim(model), 0)
        weight[projection.features[new]] = weight[projection.features[old]]
        if layer.bias is not None:
            layer.bias.data[projection.features[new]] = layer.bias.data[projection.features[old]]
    for companion in block.companions:
        parameter = model.get_parameter(companion.parameter).data.movedim(companion.dim, 0)
        parameter[companion.features[new]] = parameter[companion.features[old]]


@pytest.mark.parametrize("part", ["attention", "feed_forward"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_unit_that_repeats_another_is_made_up_for_exactly(family, part):
    model = tiny_model(family)
    block = next(block for block in read_anatomy(model).blocks if block.part == part)
    repeat_a_unit(model, block)
    inputs = tiny_inputs(model, batch=16, length=12)
    before = logits(model, inputs)
    sites = [s for s in sites_to_prune(model, level="unit") if s.name == block.consumer.module]
    mask = torch.zeros(sites[0].ranked_shape, dtype=torch.bool)
    mask[1] = True
    remove_and_compensate(model, sites, [mask], "least_squares", [inputs])
    columns = sites[0].layer.weight.detach().movedim(block.consumer.feature_dim(model), 0)
    assert not columns[block.consumer.features[1]].any()
    assert_close(logits(model, inputs), before, atol=1e-4, rtol=1e-4)


def linear_bert() -> Any:
    """A BERT whose feed-forward parts are linear, in eval mode."""
    torch.manual_seed(0)
    config = BertConfig(**TEXT, hidden_act="linear")
    return with_random_biases(BertForSequenceClassification(config)).eval()


def test_a_neuron_that_is_a_combination_of_others_is_made_up_for_to_rounding():
    model = linear_bert()
    up = model.bert.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        up.weight[7] = 0.5 * up.weight[3] - 2 * up.weight[5]
        up.bias[7] = 0.5 * up.bias[3] - 2 * up.bias[5] + 1  # the constant goes into the bias
    dense = copy.deepcopy(model)
    (site,), mask = sites_of(model, "layer.0.output"), torch.arange(64) == 7
    remove_and_compensate(model, [site], [mask], "least_squares", [tiny_inputs(model, 32, 12)])
    assert not site.layer.weight[:, 7].any()
    other = tiny_inputs(model, batch=3, length=9)
    assert_close(logits(model, other), logits(dense, other), atol=1e-5, rtol=1e-5)


def sites_of(model: Any, name: str) -> list[Any]:
    return [site for site in sites_to_prune(model, level="unit") if name in site.name]


def inputs_of(model: Any, name: str, batches: list[Any]) -> Tensor:
    """The inputs of a layer, `(rows, fan_in)`."""
    seen: list[Tensor] = []
    layer = model.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    for batch in batches:
        logits(model, batch)
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_the_weights_are_those_of_least_squares(monkeypatch, family):
    """Compare with `torch.linalg.lstsq`, with a bias and without one."""
    monkeypatch.setattr(compensation, "_RIDGES", (1e-10,))
    model: Any = tiny_model(family).double()
    batches = [tiny_inputs(model, batch=16, length=12) for _ in range(2)]
    batches[1]["input_ids"] = batches[1]["input_ids"].flip(0, 1) // 2 + 1
    sites: Any = sites_to_prune(model, level="unit")
    site = next(site for site in sites if site.block.part == "feed_forward")
    mask = torch.arange(site.ranked_shape[0]) % 2 == 1
    layer, turned = site.layer, family == "gpt2"
    dense = layer.weight.detach().clone().T if turned else layer.weight.detach().clone()
    rows = inputs_of(model, site.name, batches)
    kept, lost = rows[:, ~mask], rows[:, mask] @ dense[:, mask].T
    weights = 1 / (rows @ dense.T).square().sum(1, keepdim=True)
    if layer.bias is not None:
        kept, lost = (x - (weights * x).sum(0) / weights.sum() for x in (kept, lost))
    roots = weights.sqrt()
    added = torch.linalg.lstsq(roots * kept, roots * lost, driver="gelsd").solution.T
    remove_and_compensate(model, [site], [mask], "least_squares", batches)
    found = layer.weight.detach().T if turned else layer.weight.detach()
    assert not found[:, mask].any()
    assert_close(kept @ (found - dense)[:, ~mask].T, kept @ added.T, atol=1e-4, rtol=1e-3)


def error_at(layer: Any, outputs: Tensor, rows: Tensor, weights: Tensor) -> float:
    with torch.no_grad():
        return float((weights * (layer(rows) - outputs).square()).mean())


def test_each_kind_lowers_the_error_further():
    errors = []
    for kind in (None, "mean", "least_squares"):
        model: Any = tiny_model("bert")
        batches = [tiny_inputs(model, batch=16, length=12)]
        (site,) = sites_of(model, "layer.0.output")
        rows = inputs_of(model, site.name, batches)
        layer = model.get_submodule(site.name)
        with torch.no_grad():
            outputs = layer(rows)
            weights = 1 / (rows @ layer.weight.T).square().sum(1, keepdim=True)
        mask = torch.arange(64) < 32
        if kind is None:
            site.remove(mask)
        else:
            remove_and_compensate(model, [site], [mask], kind, batches)
        rows[:, mask] = 0
        errors.append(error_at(layer, outputs, rows, weights))
    assert errors[0] > 1.02 * errors[1]
    assert errors[1] > 1.1 * errors[2]


def test_the_mean_of_a_constant_neuron_goes_into_the_bias():
    model: Any = tiny_model("bert")
    up, down = (model.bert.encoder.layer[1].get_submodule(n) for n in ("intermediate", "output"))
    up.dense.weight.data[9] = 0
    up.dense.bias.data[9] = 1.5
    inputs = tiny_inputs(model)
    before, weight = logits(model, inputs), down.dense.weight.detach().clone()
    (site,), mask = sites_of(model, "layer.1.output"), torch.arange(64) == 9
    remove_and_compensate(model, [site], [mask], "mean", [inputs])
    assert_close(logits(model, inputs), before)
    assert torch.equal(down.dense.weight[:, ~mask], weight[:, ~mask])
    assert not down.dense.weight[:, 9].any()


def test_each_layer_sees_the_inputs_that_the_pruned_layers_make():
    model, twin = tiny_model("bert"), tiny_model("bert")
    batches = [tiny_inputs(model, batch=8)]
    options: dict[str, Any] = {"level": "unit", "importance": "magnitude", "compensate": True}
    prune_model(model, 0.5, calibration=batches, **options)
    for others in (["*layer.1.*"], ["*layer.0.*"]):
        prune_model(twin, 0.5, calibration=iter(batches), exclude=others, **options)
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))
    other = tiny_model("bert")
    options["compensate"] = False
    prune_model(other, 0.5, **options)
    assert not torch.equal(logits(model, batches[0]), logits(other, batches[0]))


def test_padding_does_not_count():
    found = []
    for fill in (0, 17):
        model: Any = tiny_model("bert")
        ids = tiny_inputs(model, batch=4)["input_ids"].clone()
        mask = torch.ones_like(ids)
        mask[1:, 4:] = 0
        ids[1:, 4:] = fill
        batch = {"input_ids": ids, "attention_mask": mask}
        prune_model(
            model, 0.5, level="unit", importance="magnitude", calibration=[batch], compensate=True
        )
        found.append(model.state_dict())
    for name, tensor in found[0].items():
        assert_close(found[1][name], tensor)


def test_it_goes_with_scores_and_a_sparsity_for_each_part():
    model: Any = tiny_model("bert")
    batches = [tiny_inputs(model, batch=8)]
    scores = {s.name: torch.arange(s.ranked_shape[0]) for s in sites_to_prune(model, level="unit")}
    wanted = {"attention": 0.25, "feed_forward": 0.5}
    report = prune_model(
        model, wanted, level="unit", scores=scores, calibration=batches, compensate=True
    )
    assert {(b.part, b.removed) for b in report.blocks} == {("attention", 1), ("feed_forward", 32)}
    down = model.bert.encoder.layer[1].output.dense.weight
    assert not down[:, :32].any()
    plain: Any = tiny_model("bert")
    prune_model(plain, wanted, level="unit", scores=scores)
    assert not torch.equal(down[:, 32:], plain.bert.encoder.layer[1].output.dense.weight[:, 32:])


def test_weights_and_biases_come_back():
    model = tiny_model("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [tiny_inputs(model, batch=8)]
    _, sites = select_sites(model, level="unit")
    with kept_weights(sites):
        prune_model(model, 0.5, level="unit", calibration=batches, compensate=True)
        changed = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert "bert.encoder.layer.0.output.dense.bias" in changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("bert", {"calibration": None}, "Pass a few batches of training data"),
        ("bert", {"calibration": []}, "Pass a few batches of training data"),
        ("bert", {"level": "weight"}, "compensate is for heads and neurons"),
        ("bert", {"compensate": "median"}, "compensate is a bool or one of"),
        ("llama", {"compensate": "mean"}, "needs a bias, and model.layers.0.self_attn.o_proj has"),
    ],
)
def test_what_cannot_be_compensated_for_is_refused(family, options, message):
    model, twin = tiny_model(family), tiny_model(family)
    given = {"level": "unit", "calibration": [tiny_inputs(model)], "compensate": True, **options}
    with pytest.raises(ValueError, match=message):
        prune_model(model, 0.5, importance="magnitude", **given)
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


def test_a_calibration_of_padding_alone_is_refused():
    model = tiny_model("bert")
    ids = tiny_inputs(model)["input_ids"]
    (site, *_), mask = sites_to_prune(model, level="unit"), torch.tensor([True, False, True, False])
    batch = {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}
    with pytest.raises(ValueError, match=rf"no row of the calibration runs through {site.name}"):
        remove_and_compensate(model, [site], [mask], "least_squares", [batch])
    assert site.layer.weight.any(0).all()


def test_a_curve_makes_up_for_each_sparsity_and_restores_the_model():
    model = tiny_model("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [tiny_inputs(model, batch=16, length=12)]
    found: list[dict[str, Tensor]] = []

    def evaluate(pruned: Any) -> float:
        found.append({name: tensor.clone() for name, tensor in pruned.state_dict().items()})
        return 0.0

    settings: dict[str, Any] = {"level": "unit", "calibration": batches, "compensate": True}
    pruning_curve(model, [0.25, 0.5], evaluate, **settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for sparsity, weights in zip([0.25, 0.5], found, strict=True):
        other = tiny_model("bert")
        prune_model(other, sparsity, **settings)
        for name, tensor in other.state_dict().items():
            assert torch.equal(weights[name], tensor), name
