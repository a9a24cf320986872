"""The layers that a configuration selects, and the selections that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td import anneal, patch_model, unpatch_model
from hf_td.config import CONFIG_KEY
from hf_td.patching.layers import is_targeted
from hf_td.patching.patch import find_patch
from hf_td.ranking.sites import UnitSite
from tests.patching.models import (
    Wrapper,
    assert_same_masks,
    every_family,
    masks,
    patch_of,
    patched,
    targeted_names,
)
from tests.tiny import tiny_model

# --- selections ---

ATTENTION = {"attention.self.query", "attention.self.key", "attention.self.value"}
CONSUMER = "attention.output.dense"
FEED_FORWARD = {"intermediate.dense", "output.dense"}


@pytest.mark.parametrize(
    ("settings", "weights", "units"),
    [
        ({}, {*ATTENTION, CONSUMER, *FEED_FORWARD}, set()),
        ({"level": "unit"}, set(), {CONSUMER, "output.dense"}),
        ({"attention_level": "none"}, FEED_FORWARD, set()),
        ({"feed_forward_level": "none"}, {*ATTENTION, CONSUMER}, set()),
        ({"attention_level": "unit"}, FEED_FORWARD, {CONSUMER}),
        ({"feed_forward_level": "unit"}, {*ATTENTION, CONSUMER}, {"output.dense"}),
        ({"level": "unit", "attention_level": "none"}, set(), {"output.dense"}),
        ({"level": "unit", "attention_level": "weight"}, {*ATTENTION, CONSUMER}, {"output.dense"}),
        ({"include": ["*.query", "*.key"]}, {"attention.self.query", "attention.self.key"}, set()),
        ({"exclude": ["*.attention.*"]}, FEED_FORWARD, set()),
        ({"include": ["*.attention.*"], "exclude": ["*.self.*"]}, {CONSUMER}, set()),
        ({"level": "unit", "exclude": ["*.attention.*"]}, set(), {"output.dense"}),
    ],
)
@pytest.mark.parametrize("layers", [None, [1], [0, 1]])
def test_levels_patterns_and_layers_select_the_projections(settings, weights, units, layers):
    model = patched("bert", **settings, layers=layers)
    expected = {
        f"bert.encoder.layer.{i}.{name}" for i in layers or [0, 1] for name in weights | units
    }
    assert targeted_names(model) == expected
    sites = patch_of(model).sites
    prefix = len("bert.encoder.layer.0.")
    assert {s.name[prefix:] for s in sites if isinstance(s, UnitSite)} == units
    assert len({s.index for s in sites}) == len(sites)


def test_the_selection_does_not_change_the_masks_of_selected_layers():
    every, some = patched("bert"), patched("bert", layers=[1], exclude=["*.query"])
    anneal(every, 1.0, 3)
    anneal(some, 1.0, 3)
    keeps = masks(every)
    assert_same_masks(masks(some), {name: keeps[name] for name in masks(some)})


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_layers_that_share_a_position_bias_drop_the_same_heads(stack):
    model = patched("t5", level="unit")
    for update in range(5):
        anneal(model, 1.0, update)
        keeps = masks(model)
        first, second = (keeps[f"{stack}.block.{i}.layer.0.SelfAttention.o"] for i in (0, 1))
        assert torch.equal(first, second)


@every_family
def test_embeddings_heads_and_norms_are_never_targeted(family):
    model = patched(family)
    names = targeted_names(model)
    assert names
    embeddings: Any = [model.get_input_embeddings(), model.get_output_embeddings()]
    assert not any(is_targeted(m) for m in embeddings if m is not None)
    assert not any(part in name for name in names for part in ("classifier", "lm_head", "pooler"))


# --- refusals ---


class NoBlocksConfig(hf.PreTrainedConfig):
    model_type = "no_blocks"

    def __init__(self, vocab_size: int = 32, **rest: Any) -> None:
        self.vocab_size = vocab_size
        super().__init__(**rest)


class NoBlocks(PreTrainedModel):
    """A model of embeddings and two linear layers, one of which no forward calls."""

    config_class = NoBlocksConfig

    def __init__(self, config: NoBlocksConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, 8)
        self.readout = nn.Linear(8, 4)
        self.idle = nn.Linear(8, 4)
        self.post_init()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.readout(self.embedding(input_ids).mean(1))


def assert_stock(model: nn.Module) -> None:
    assert not targeted_names(model)
    assert find_patch(model) is None
    assert not model._forward_pre_hooks
    assert not hasattr(getattr(model, "config", None), CONFIG_KEY)


def test_patching_twice_is_refused():
    model = patched("bert")
    with pytest.raises(ValueError, match=r"patched already; call unpatch_model\(model\) first"):
        patch_model(model)
    with pytest.raises(ValueError, match="patched already"):
        patch_model(Wrapper(model))
    unpatch_model(model)
    patch_model(model)


def test_a_model_without_blocks_is_refused_with_its_linear_layers():
    model = NoBlocks(NoBlocksConfig())
    message = r"nothing to target in NoBlocks: found no attention .* readout, idle\. .*calls: idle"
    with pytest.raises(ValueError, match=message):
        patch_model(model)
    assert_stock(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"include": ["*.nope"]},
            r"patterns \['\*.nope'\] match none of the projections: bert",
        ),
        ({"include": ["*.query", "q"]}, r"the patterns \['q'\] match none of the projections"),
        ({"exclude": ["*.nope"]}, r"the patterns \['\*.nope'\] match none"),
        ({"layers": [0, 7]}, r"there are no layers \[7\]; there are \[0, 1\]"),
        ({"layers": [-1]}, r"there are no layers \[-1\]; there are \[0, 1\]"),
        ({"layers": []}, "nothing to target in BertForSequenceClassification"),
        ({"exclude": ["*.encoder.*"]}, "the levels select none of bert.encoder.layer.*.attention"),
        ({"attention_level": "none", "feed_forward_level": "none"}, "the levels select none of"),
        ({"level": "unit", "include": ["*.query"]}, "the levels select none of"),
        ({"targeting": 1.0}, "targeting is a fraction"),
    ],
)
def test_a_selection_that_matches_nothing_is_refused(settings, message):
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        patch_model(model, **settings)
    assert_stock(model)


def test_an_unknown_setting_is_refused():
    model = tiny_model("bert")
    with pytest.raises(TypeError, match=r"unknown settings \['gamma'\]; known are"):
        patch_model(model, gamma=0.5)
    assert_stock(model)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan, 50])
def test_progress_outside_0_to_1_is_refused(progress):
    model = patched("bert")
    with pytest.raises(ValueError, match=r"progress is .*in \[0, 1\]; got"):
        anneal(model, progress)
    assert patch_of(model).updates == 0


@pytest.mark.parametrize(
    ("progress", "update", "kind", "message"),
    [
        (None, 1, TypeError, "progress is completed over all updates, .* got None"),
        ("0.5", 1, TypeError, "progress is completed over all updates, .* got '0.5'"),
        (0.5, 1.5, TypeError, "update is the number of the update, an integer, .* got 1.5"),
        (0.5, -1, ValueError, "update is the number of the update, at least 0; got -1"),
    ],
)
def test_what_is_no_progress_or_update_is_refused(progress, update, kind, message):
    model = patched("bert")
    with pytest.raises(kind, match=message):
        anneal(model, progress, update)
    assert patch_of(model).updates == 0


def test_an_unpatched_model_cannot_be_annealed_or_unpatched():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="BertForSequenceClassification is not patched"):
        anneal(model, 0.5)
    with pytest.raises(ValueError, match=r"is not patched; call patch_model\(model\) first"):
        unpatch_model(model)


class PackedLinear(nn.Linear):
    """A layer like quantised ones: an `nn.Linear` whose weight is no plain parameter."""


class PackedWeight(nn.Parameter):
    pass


def pack(layer: Any) -> None:
    layer.__class__ = PackedLinear
    layer.weight = PackedWeight(layer.weight.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pack, "got tests.*PackedLinear"),
        (lambda layer: setattr(layer, "forward", layer.forward), "its forward was replaced"),
    ],
)
def test_a_layer_that_cannot_be_targeted_is_refused_with_its_name(change, message):
    model: Any = tiny_model("bert")
    change(model.bert.encoder.layer[1].output.dense)
    with pytest.raises(TypeError, match=rf"target bert.encoder.layer.1.output.dense: .*{message}"):
        patch_model(model)
    assert_stock(model)
    patch_model(model, exclude=["bert.encoder.layer.1.output.dense"])
    assert len(patch_of(model).sites) == 11
