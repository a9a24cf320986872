"""Pruned models of every family, at both levels."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import anneal, patch_model, prune_model, read_anatomy, unpatch_model
from hf_td.anatomy import Block
from hf_td.pruning import kept_weights, sites_to_prune
from hf_td.ranking.importance import fan_in_dim
from hf_td.ranking.sites import Site
from tests.reference import lowest, unit_scores
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def projections(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(n for b in read_anatomy(model).blocks for n in b.modules))


def by_unit(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a projection as `(units, fan_in)`."""
    layer: Any = model.get_submodule(name)
    return layer.weight.detach().movedim(fan_in_dim(layer), 1)


def removed_units(model: nn.Module, block: Block) -> set[int]:
    """Return the units of which the consumer reads nothing."""
    columns = by_unit(model, block.consumer.module).T
    return {i for i, features in enumerate(block.consumer.features) if not columns[features].any()}


def assert_same_state(model: nn.Module, state: dict[str, Tensor], but: set[str]) -> None:
    for name, value in model.state_dict().items():
        if name not in but:
            assert torch.equal(value, state[name]), name


@every_family
@pytest.mark.parametrize("sparsity", [0.29, 0.5, 0.99])
def test_only_the_lowest_weights_of_each_output_unit_are_removed(family, sparsity):
    model, stock = tiny_model(family), tiny_model(family)
    prune_model(model, sparsity)
    for name in projections(stock):
        for pruned, weights in zip(by_unit(model, name), by_unit(stock, name), strict=True):
            gone = set((pruned == 0).nonzero().flatten().tolist())
            assert len(gone) == math.floor(sparsity * len(weights) + 1e-6)
            assert gone == lowest(weights.abs().tolist(), sparsity), name
            kept = pruned != 0
            assert torch.equal(pruned[kept], weights[kept])
    assert_same_state(model, state_of(stock), but={f"{n}.weight" for n in projections(stock)})


@every_family
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_the_units_of_lowest_norm_of_each_block_are_removed(family, sparsity):
    model, stock = tiny_model(family), tiny_model(family)
    anatomy = read_anatomy(stock)
    prune_model(model, sparsity, level="unit")
    for block in anatomy.blocks:
        gone = removed_units(model, block)
        assert len(gone) == math.floor(sparsity * block.units + 1e-6)
        assert gone == lowest(unit_scores(stock, anatomy.tied(block)), sparsity), block.name
        for producer in block.producers:
            layer: Any = model.get_submodule(producer.module)
            weight = layer.weight.movedim(producer.feature_dim(model), 0)
            for unit in range(block.units):
                assert bool(weight[producer.features[unit]].any()) == (unit not in gone)
                if layer.bias is not None:
                    bias = layer.bias[producer.features[unit]]
                    assert bool(bias.any()) == (unit not in gone)


@every_family
@pytest.mark.parametrize("sparsity", [0.25, 0.75, 1.0])
def test_outputs_are_those_of_a_model_whose_units_contribute_nothing(family, sparsity):
    model, reference = tiny_model(family), tiny_model(family)
    prune_model(model, sparsity, level="unit")
    for block in read_anatomy(model).blocks:
        mask = torch.ones(block.consumer.features.numel())
        mask[block.consumer.features[sorted(removed_units(model, block))].flatten()] = 0
        reference.get_submodule(block.consumer.module).register_forward_pre_hook(
            lambda _, args, mask=mask: (args[0] * mask, *args[1:])
        )
    assert_close(logits(model), logits(reference), rtol=1e-5, atol=1e-6)
    assert not torch.equal(logits(model), logits(tiny_model(family)))


@every_family
@every_level
def test_sparsity_0_changes_nothing_and_1_removes_everything(family, level):
    model = tiny_model(family)
    state = state_of(model)
    report = prune_model(model, 0.0, level=level)
    assert_same_state(model, state, but=set())
    assert report.removed == 0
    report = prune_model(model, 1.0, level=level)
    assert report.sparsity == 1.0
    assert not any(by_unit(model, name).any() for name in projections(model))
    assert logits(model).isfinite().all()


@every_level
def test_ties_do_not_change_the_count(level):
    model = tiny_model("bert")
    for name in projections(model):
        by_unit(model, name).fill_(1.0)
    assert prune_model(model, 0.5, level=level).sparsity == 0.5


@every_level
def test_pruning_further_keeps_what_is_removed(level):
    model, once = tiny_model("bert"), tiny_model("bert")
    prune_model(model, 0.25, level=level)
    prune_model(model, 0.75, level=level)
    prune_model(once, 0.75, level=level)
    assert_same_state(model, state_of(once), but=set())


@every_level
def test_the_parameters_stay_the_same_objects_with_their_gradients(level):
    model = tiny_model("bert")
    parameters = list(model.parameters())
    prune_model(model, 0.5, level=level)
    for parameter, before in zip(model.parameters(), parameters, strict=True):
        assert parameter is before
        assert parameter.requires_grad
        assert parameter.is_leaf


@every_level
def test_a_bfloat16_model_is_pruned_to_the_same_counts(level):
    report = prune_model(tiny_model("llama").bfloat16(), 0.5, level=level)
    assert report.sparsity == 0.5


# --- what is pruned ---


def zeros(model: nn.Module) -> dict[str, int]:
    return {n: int((by_unit(model, n) == 0).sum()) for n in projections(model)}


def test_without_a_record_the_default_level_is_used():
    model, explicit = tiny_model("bert"), tiny_model("bert")
    prune_model(model, 0.5)
    prune_model(explicit, 0.5, level="weight")
    assert_same_state(model, state_of(explicit), but=set())


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{"level": "unit"}, {"exclude": ["*.query"]}, {"attention_level": "none"}, {"layers": [1]}],
)
def test_a_model_is_pruned_as_it_was_trained(loaded, settings, tmp_path):
    model: Any = patch_model(tiny_model("bert"), importance="magnitude", **settings)
    if loaded:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    prune_model(model, 0.5)
    explicit = tiny_model("bert")
    prune_model(explicit, 0.5, **settings)
    assert_same_state(model, state_of(explicit), but=set())
    assert zeros(model) != zeros(tiny_model("bert"))


def test_settings_that_are_given_replace_those_of_the_training():
    model = patch_model(tiny_model("bert"), level="unit", exclude=["*.attention.*"])
    explicit = tiny_model("bert")
    prune_model(model, 0.5, level="weight")
    prune_model(explicit, 0.5, exclude=["*.attention.*"])
    assert_same_state(model, state_of(explicit), but=set())


@every_level
def test_a_patched_model_is_pruned_like_a_stock_one_and_stays_patched(level):
    model, stock = tiny_model("bert"), tiny_model("bert")
    patch_model(model, level=level)
    anneal(model, 1.0, 0)
    prune_model(model, 0.5)
    prune_model(stock, 0.5, level=level)
    assert_same_state(model, state_of(stock), but=set())
    anneal(model, 1.0, 1)
    unpatch_model(model)


def test_layers_and_patterns_choose_what_is_pruned():
    model = tiny_model("bert")
    report = prune_model(model, 0.5, layers=[1], include=["*.dense"])
    pruned = {layer.name for layer in report.layers if layer.removed}
    parts = ("attention.output.dense", "intermediate.dense", "output.dense")
    assert pruned == {f"bert.encoder.layer.1.{part}" for part in parts}


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, math.nan, 50])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity):
    model = tiny_model("bert")
    state = state_of(model)
    with pytest.raises(ValueError, match=r"sparsity is the fraction to remove, in \[0, 1\]; got"):
        prune_model(model, sparsity)
    assert_same_state(model, state, but=set())


def test_what_is_not_there_cannot_be_pruned():
    with pytest.raises(ValueError, match=r"the patterns \['\*.nope'\] match none"):
        prune_model(tiny_model("bert"), 0.5, include=["*.nope"])
    with pytest.raises(TypeError, match=r"unknown settings \['leval'\]"):
        prune_model(tiny_model("bert"), 0.5, leval="unit")
    with pytest.raises(ValueError, match="cannot make an example input for Linear"):
        prune_model(nn.Linear(2, 2), 0.5)


# --- pruning for a while ---


def remove_everything(sites: tuple[Site, ...]) -> None:
    for site in sites:
        site.remove(torch.ones_like(site.scores(), dtype=torch.bool))


@every_family
@every_level
def test_kept_weights_come_back_bit_for_bit(family, level):
    model = tiny_model(family)
    state, before = state_of(model), logits(model)
    sites = sites_to_prune(model, level=level)
    with kept_weights(sites):
        remove_everything(sites)
        assert not torch.equal(logits(model), before)
    assert_same_state(model, state, but=set())
    assert torch.equal(logits(model), before)


def failing_use(sites: Any) -> None:
    with kept_weights(sites):
        remove_everything(sites)
        raise KeyError("inside")


@every_level
def test_kept_weights_come_back_after_an_error(level):
    model = copy.deepcopy(tiny_model("gpt2"))
    state = state_of(model)
    sites = sites_to_prune(model, level=level)
    with pytest.raises(KeyError, match="inside"):
        failing_use(sites)
    assert_same_state(model, state, but=set())


def test_batches_may_be_anything_that_can_be_run_through():
    """A DataLoader of a stream, for instance, has no length."""

    class Stream:
        def __iter__(self):
            yield tiny_inputs(model)

        def __len__(self):
            raise TypeError("no length")

    model = tiny_model("bert")
    assert prune_model(model, 0.5, level="unit", calibration=Stream()).sparsity > 0.4
    with pytest.raises(ValueError, match="there was none"):
        prune_model(tiny_model("bert"), 0.5, level="unit", calibration=[])


IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    "how", [{}, {"importance": "taylor"}, {"importance": "magnitude", "compensate": True}], ids=str
)
@pytest.mark.parametrize(
    ("calibration", "kind", "message"),
    [
        (["a text"], TypeError, "got 'a text', a str"),
        ("texts.txt", TypeError, "got 't', a str"),
        ({"input_ids": IDS}, TypeError, "got 'input_ids', a str"),
        ([IDS], TypeError, "a Tensor"),
        ([({"input_ids": IDS}, IDS)], TypeError, "a tuple"),
        ([{"input_ids": IDS[0], "labels": IDS[0, 0]}], ValueError, r"'input_ids': \(3,\)"),
        ([{"text": ["a text"]}], ValueError, "'text': 'list'"),
    ],
    ids=["texts", "file", "one", "tensors", "tuples", "rows", "columns"],
)
def test_what_is_no_batch_is_refused(calibration, kind, message, how):
    model = tiny_model("bert")
    with pytest.raises(kind, match=r"atches are what.*model\(\*\*batch\) takes") as raised:
        prune_model(model, 0.5, level="unit", calibration=calibration, **how)
    assert re.search(message, str(raised.value))
    assert "Embedding(" not in str(raised.value)


class Classifier(nn.Module):
    """A module around a stock model, without a config of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tiny_model("bert").base_model
        self.head = nn.Linear(32, 2)

    def forward(self, **inputs: Any) -> Tensor:
        return self.head(self.encoder(**inputs).last_hidden_state[:, 0])


def test_a_patched_module_without_a_config_is_pruned_as_it_was_patched():
    model = Classifier()
    inputs = tiny_inputs(tiny_model("bert"))
    settings = {"level": "unit", "targeting": 0.5, "importance": "magnitude", "layers": [1]}
    patch_model(model, example_inputs=inputs, **settings)
    report = prune_model(model, 0.5, example_inputs=inputs)
    assert [block.removed for block in report.blocks] == [0, 0, 2, 32]


def test_arguments_that_cannot_be_used_are_refused():
    model = tiny_model("bert")
    with pytest.raises(TypeError, match="the fraction to remove; got '0"):
        prune_model(model, "0.5")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"expected a model, .* got 'bert-base-uncased'"):
        prune_model("bert-base-uncased", 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"single settings are keywords, .* got 'unit'"):
        prune_model(model, 0.5, "unit")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Pass budget='global' with it"):
        prune_model(model, 0.5, of="flops")
    with pytest.raises(ValueError, match="on the device meta"):
        prune_model(nn.Module.to(model, "meta"), 0.5)
