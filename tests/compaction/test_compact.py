"""Compact models compute what the masked ones computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hf_td import compact_model, patch_model, prune_model
from hf_td.compaction import LAYOUT_KEY, check, compact, layout_of_model
from hf_td.compaction.check import Footprint, compare
from hf_td.patching.patch import find_patch
from tests.compaction.models import (
    assert_identical,
    assert_same,
    computed,
    every_family,
    masked_model,
    parameters_of,
    reloaded,
    small_model,
    uneven_model,
    units_of,
)
from tests.tiny import FAMILIES, tiny_inputs, tiny_model


@every_family
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 1])
def test_masked_compact_and_reloaded_agree(family, sparsity, tmp_path):
    model = masked_model(family, sparsity)
    expected, size = computed(model), model.num_parameters()
    assert compact_model(model, multiple_of=1) is model
    assert model.num_parameters() < size
    assert_same(model, expected)
    assert_same(reloaded(model, tmp_path), expected)


@every_family
def test_layers_may_keep_different_numbers_of_units(family, tmp_path):
    model = uneven_model(family)
    expected = computed(model)
    compact_model(model, multiple_of=1)
    assert len(set(units_of(model).values())) >= 2
    assert_same(model, expected)
    assert_same(reloaded(model, tmp_path), expected)


@every_family
def test_what_is_compact_can_be_pruned_and_made_compact_again(family, tmp_path):
    model = small_model(family, 0.25)
    first = layout_of_model(model)
    prune_model(model, 0.5, level="unit")
    expected = computed(model)
    compact_model(model, multiple_of=1)
    second = layout_of_model(model)
    assert first is not None
    assert second is not None
    assert set(first.shapes) <= set(second.shapes)
    assert_same(model, expected)
    assert_same(reloaded(model, tmp_path), expected)


def test_a_layer_that_is_cut_later_joins_the_layout(tmp_path):
    model = tiny_model("bert")
    for layer, sparsity in ((0, 0.75), (1, 0.5)):
        prune_model(model, sparsity, level="unit", layers=[layer])
        expected = computed(model)
        compact_model(model)
    layout = layout_of_model(model)
    assert layout is not None
    assert layout.shapes["bert.encoder.layer.0.intermediate.dense.weight"] == (16, 32)
    assert layout.shapes["bert.encoder.layer.1.intermediate.dense.weight"] == (32, 32)
    heads = {name: counts["num_attention_heads"] for name, counts in layout.attributes.items()}
    assert sorted(heads.values()) == [1, 2]
    assert_same(reloaded(model, tmp_path), expected)


@pytest.mark.parametrize("family", ["gpt2", "t5", "t5_gated"])
def test_tied_embeddings_stay_tied(family, tmp_path):
    model: Any = small_model(family)
    again: Any = reloaded(model, tmp_path)
    for found in (model, again):
        assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


def test_grouped_queries_lose_whole_groups(tmp_path):
    model: Any = small_model("llama")
    for found in (model, reloaded(model, tmp_path)):
        attention: Any = found.model.layers[0].self_attn
        assert attention.q_proj.weight.shape == (16, 32)
        assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (8, 32)
        assert attention.o_proj.weight.shape == (32, 16)


def test_the_position_bias_that_layers_share_loses_the_same_heads():
    masked: Any = masked_model("t5")
    model: Any = compact_model(copy.deepcopy(masked), multiple_of=1)
    first, second = (block.layer[0].SelfAttention for block in masked.encoder.block)
    live = [h for h in range(4) if first.o.weight[:, 8 * h : 8 * h + 8].any()]
    assert live == [h for h in range(4) if second.o.weight[:, 8 * h : 8 * h + 8].any()]
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert_close(bias.weight, first.relative_attention_bias.weight[:, live], rtol=0, atol=0)
    assert bias.embedding_dim == 2
    assert model.encoder.block[1].layer[0].SelfAttention.n_heads == 2


def test_the_fused_layer_of_gpt2_loses_queries_keys_and_values():
    masked: Any = masked_model("gpt2")
    model: Any = compact_model(copy.deepcopy(masked), multiple_of=1)
    full, cut = masked.transformer.h[0].attn, model.transformer.h[0].attn
    live = [h for h in range(4) if full.c_proj.weight[8 * h : 8 * h + 8].any()]
    columns = [32 * part + 8 * h + i for part in range(3) for h in live for i in range(8)]
    assert_close(cut.c_attn.weight, full.c_attn.weight[:, columns], rtol=0, atol=0)
    assert_close(cut.c_attn.bias, full.c_attn.bias[columns], rtol=0, atol=0)
    assert (cut.c_attn.nf, cut.split_size, cut.num_heads) == (48, 16, 2)


@every_family
def test_what_loses_nothing_stays_the_same_object(family):
    model = masked_model(family)
    before = parameters_of(model)
    compact_model(model, multiple_of=1)
    after = parameters_of(model)
    layout = layout_of_model(model)
    assert layout is not None
    assert before.keys() == after.keys()
    for name, parameter in after.items():
        assert (parameter is before[name]) == (name not in layout.shapes), name
        assert isinstance(parameter, nn.Parameter)
        assert parameter.is_contiguous()


def test_frozen_parameters_and_training_mode_stay():
    model = masked_model("bert").train()
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    state = torch.get_rng_state()
    compact_model(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    thawed = {name for name, p in model.named_parameters() if p.requires_grad}
    assert thawed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_type_is_made_compact_as_it_is(dtype, tmp_path):
    model: Any = masked_model("llama")
    model.to(dtype)
    expected = computed(model)
    compact_model(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert_same(model, expected, atol=1e-2, rtol=1e-2)
    assert_identical(reloaded(model, tmp_path), model)


def test_widths_are_rounded_up_and_heads_are_not():
    model = tiny_model("bert")
    prune_model(model, 0.7, level="unit")  # 20 of 64 neurons and 2 of 4 heads are left
    expected = computed(model)
    for multiple, width in ((48, 48), (16, 32), (8, 24), (1, 20)):
        cut = compact_model(copy.deepcopy(model), multiple_of=multiple)
        assert set(units_of(cut).values()) == {2, width}
        assert_same(cut, expected)


def test_widths_are_never_rounded_beyond_what_is_there():
    model = compact_model(masked_model("bert"), multiple_of=1000)
    assert set(units_of(model).values()) == {2, 64}


def test_a_patched_model_is_unpatched():
    model = tiny_model("bert")
    patch_model(model, level="unit")
    prune_model(model, 0.5)
    expected = computed(model)
    compact_model(model)
    assert find_patch(model) is None
    assert_same(model, expected)


def test_an_input_of_the_callers_own_is_used():
    model = masked_model("bert")
    inputs = tiny_inputs(model)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    compact_model(model, example_inputs=inputs)
    # The reading; a trial with all heads and with fewer; once more, masked and compact.
    assert len(seen) == 6
    assert all(ids is inputs["input_ids"] for ids in seen)


def test_a_model_without_dead_units_is_refused():
    model = tiny_model("bert")
    prune_model(model, 0.5, level="weight")
    before = parameters_of(model)
    with pytest.raises(
        ValueError, match=r"no unit of BertForSequenceClassification .*level='unit'"
    ):
        compact_model(model)
    assert all(p is before[name] for name, p in parameters_of(model).items())


@pytest.mark.parametrize("multiple", [0, -8])
def test_a_multiple_that_is_not_positive_is_refused(multiple):
    with pytest.raises(ValueError, match=f"multiple_of is a positive number .* got {multiple}"):
        compact_model(masked_model("bert"), multiple_of=multiple)


class ReadsItsWidth(nn.Linear):
    """A layer whose forward reads a width that no table of attributes lists."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.weight.shape[1]


class NeedsItsWidth(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.view(*input.shape[:-1], 64))


@pytest.fixture
def before_cut():
    """Return a pruned model, and a copy of it to compare with."""
    model = masked_model("bert")
    return model, copy.deepcopy(model)


def assert_untouched(model: Any, twin: Any, parameters: dict[str, Tensor]) -> None:
    after = parameters_of(model)
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert model.config.to_dict() == twin.config.to_dict()
    counts = [m.num_attention_heads for m in model.modules() if hasattr(m, "num_attention_heads")]
    assert set(counts) == {4}
    assert_identical(model, twin)


@pytest.mark.parametrize("layer", [ReadsItsWidth, NeedsItsWidth])
def test_a_cut_that_changes_the_outputs_is_refused_and_undone(before_cut, layer):
    for model in before_cut:
        model.bert.encoder.layer[1].output.dense.__class__ = layer
    model, twin = before_cut
    parameters = parameters_of(model)
    place = r"was left as it was: .*(first at|masked one:) bert\.encoder\.layer\.1\.output\.dense"
    with pytest.raises(ValueError, match=f"BertForSequenceClassification cannot be .*{place}"):
        compact_model(model)
    assert_untouched(model, twin, parameters)


def test_a_wrong_cut_is_refused_and_undone(before_cut, monkeypatch):
    model, twin = before_cut
    parameters = parameters_of(model)
    right = compact.cut_parameters

    def wrong(model, kept):
        smaller = right(model, kept)
        name = "bert.encoder.layer.1.attention.output.dense.weight"
        return smaller if name not in smaller else {**smaller, name: smaller[name].flip(1)}

    monkeypatch.setattr(compact, "cut_parameters", wrong)
    with pytest.raises(ValueError, match=r"masked one: bert\.encoder\.layer\.1\.attention\.output"):
        compact_model(model)
    assert_untouched(model, twin, parameters)


def test_nothing_is_compared_when_that_is_not_wanted(before_cut):
    model, _ = before_cut
    model.bert.encoder.layer[1].output.dense.__class__ = ReadsItsWidth
    compact_model(model, check=False)
    assert set(units_of(model).values()) == {2, 32}


def test_the_layout_lies_in_the_config():
    model = small_model("bert")
    layout = layout_of_model(model)
    assert layout is not None
    assert getattr(model.config, LAYOUT_KEY) == layout.to_dict()
    assert layout_of_model(tiny_model("bert")) is None


@pytest.mark.parametrize("sparsity", [0.5, {"layers": 0.5}], ids=["units", "layers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_models_of_the_config_stay_stock(family, sparsity, tmp_path):
    model: Any = tiny_model(family)
    before = model.config.to_dict()
    other = type(model)(model.config).eval()
    compact_model(prune(model, sparsity))
    assert other.config.to_dict() == before
    assert layout_of_model(model) is not None or model.config.to_dict() != before
    for one in (model, other):
        assert_same(reloaded(one, tmp_path / str(one is model)), computed(one))


def prune(model: Any, sparsity: Any) -> Any:
    prune_model(model, sparsity, level="unit")
    return model


def test_a_part_shares_its_layout_with_the_model_around_it(tmp_path):
    model: Any = tiny_model("bert")
    compact_model(prune(model.bert, 0.5))
    assert model.bert.config is model.config
    assert_same(reloaded(model, tmp_path), computed(model))


def test_infinities_have_to_be_where_they_were():
    some = torch.tensor([1.0, -torch.inf])
    compare(Footprint({"x": some}), Footprint({"x": some.clone()}))
    for other in ([1.0, 0.0], [1.0, torch.inf], [2.0, -torch.inf], [torch.nan, -torch.inf]):
        with pytest.raises(ValueError, match="differs from the masked one: x differs"):
            compare(Footprint({"x": some}), Footprint({"x": torch.tensor(other)}))


def test_nan_is_no_proof_of_anything():
    nan = torch.tensor([1.0, torch.nan])
    with pytest.raises(ValueError, match="masked one: x is nan in 1 of 2 values before the change"):
        compare(Footprint({"x": nan}), Footprint({"x": nan.clone()}))


def test_a_model_that_a_trainer_ran_in_mixed_precision_is_compared_in_its_own_type(
    mixed_precision, monkeypatch
):
    """In another type rounding would look like a difference in models too big for float64."""
    monkeypatch.setattr(check, "MOST_DOUBLES", 0)
    model = mixed_precision(tiny_model("bert"))
    around = model.__dict__["forward"]
    prune_model(model, 0.5, level="unit")
    compact_model(model)
    assert model.__dict__["forward"] is around
    seen = check.footprint(model, tiny_inputs(model), [])
    with torch.no_grad():
        expected = type(model).forward(model, **tiny_inputs(model)).logits
    assert torch.equal(seen.values["output 0"], expected)
