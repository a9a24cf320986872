"""The layout of a compact model is data; fields that do not fit are refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_td.compaction import CompactLayout, apply_layout, layout_of_model
from hf_td.modules.compact_shapes import COUNTS, QUANT_METHOD, VERSION
from tests.compaction.models import parameters_of, small_model
from tests.tiny import tiny_model

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"
ATTENTION = "bert.encoder.layer.0.attention.self"
STOCK = tiny_model("bert")


def layout_dict(**changes: Any) -> dict[str, Any]:
    """Return a layout that fits a tiny BERT, with some fields changed."""
    fine = {
        "quant_method": QUANT_METHOD,
        "version": VERSION,
        "shapes": {WEIGHT: [8, 32]},
        "attributes": {ATTENTION: {"num_attention_heads": 2}},
    }
    return {**fine, **changes}


def empty_stock() -> nn.Module:
    """Return a tiny BERT on the meta device, as transformers passes it to be prepared."""
    with torch.device("meta"):
        return type(STOCK)(STOCK.config)


def apply(values: Any) -> nn.Module:
    model = empty_stock()
    apply_layout(model, CompactLayout.from_dict(values))
    return model


def assert_refused(values: Any, field: str) -> None:
    """Assert that a layout is refused by the name of the field, and changes nothing."""
    model = empty_stock()
    before = parameters_of(model)
    with pytest.raises(ValueError, match=f"malformed compact layout: {field}"):
        apply_layout(model, CompactLayout.from_dict(values))
    assert all(p is before[name] for name, p in parameters_of(model).items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
def test_a_layout_goes_through_json_and_back(family):
    layout = layout_of_model(small_model(family))
    assert layout is not None
    again = CompactLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again == layout
    assert again.to_dict() == layout.to_dict()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
def test_a_stock_model_takes_the_shapes_and_counts_of_a_compact_one(family):
    compact, stock = small_model(family), tiny_model(family)
    layout = layout_of_model(compact)
    assert layout is not None
    apply_layout(stock, layout)
    expected = {name: p.shape for name, p in parameters_of(compact).items()}
    assert {name: p.shape for name, p in parameters_of(stock).items()} == expected
    assert str(stock) == str(compact)  # compares out_features, nf and other sizes
    for module, other in zip(stock.modules(), compact.modules(), strict=True):
        counts = COUNTS & vars(module).keys()
        assert {c: vars(module)[c] for c in counts} == {c: vars(other)[c] for c in counts}


def test_what_is_applied_has_no_memory_on_the_meta_device():
    model: Any = apply(layout_dict())
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    assert weight.shape == (8, 32)
    assert weight.is_meta
    assert weight.requires_grad
    assert model.bert.encoder.layer[0].attention.self.num_attention_heads == 2


@pytest.mark.parametrize("value", [None, 3, "x", [], ["quant_method"], 1.5, True])
def test_what_is_no_mapping_is_refused(value):
    assert_refused(value, "layout should be a mapping")


@pytest.mark.parametrize("missing", ["version", "shapes", "attributes"])
def test_missing_keys_are_refused(missing):
    values = layout_dict()
    del values[missing]
    assert_refused(values, "layout should be the keys")


def test_extra_keys_are_refused():
    assert_refused(layout_dict(code="import os"), r"layout should be the keys .* got .*'code'")


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, True, 1.0, [1]])
def test_another_version_is_refused(version):
    assert_refused(layout_dict(version=version), r"layout\.version should be 1")


@pytest.mark.parametrize("method", ["bitsandbytes", None, 1])
def test_another_method_is_refused(method):
    assert_refused(layout_dict(quant_method=method), r"layout\.quant_method should be 'hf_td'")


@pytest.mark.parametrize("field", ["shapes", "attributes"])
@pytest.mark.parametrize("value", [None, [], [[WEIGHT, [8, 32]]], "x", 3])
def test_fields_that_are_no_mappings_are_refused(field, value):
    assert_refused(layout_dict(**{field: value}), rf"layout\.{field} should be a mapping")


BAD_SHAPES = [
    [],
    [8],
    [8, 32, 1],
    [0, 32],
    [-8, 32],
    [65, 32],
    [8, 33],
    [2**62, 2**62],
    [8.0, 32],
    [True, 32],
    ["8", 32],
    [None, 32],
    [[8], 32],
    8,
    "8x32",
    None,
    {"0": 8, "1": 32},
    [float("nan"), 32],
    [float("inf"), 32],
]


@pytest.mark.parametrize("shape", BAD_SHAPES, ids=str)
def test_shapes_that_do_not_fit_are_refused(shape):
    assert_refused(layout_dict(shapes={WEIGHT: shape}), rf"layout\.shapes\['{WEIGHT}'\] should be")


BAD_NAMES: list[Any] = [
    "",
    ".",
    "..",
    "weight",
    "../../etc/passwd",
    "/etc/passwd",
    "bert.encoder.layer.0.intermediate.dense",
    "bert.encoder.layer.9.intermediate.dense.weight",
    "bert.__class__.__init__",
    "bert.embeddings.position_ids",
    "__dict__",
    f"{WEIGHT} ",
    3,
    None,
    (1, 2),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=str)
def test_what_is_no_parameter_of_the_model_is_refused(name):
    assert_refused(layout_dict(shapes={name: [1, 1]}), r"layout\.shapes\[")


@pytest.mark.parametrize("name", ["..", "bert.nonsense", WEIGHT, "os.system", 3], ids=str)
def test_what_is_no_module_of_the_model_is_refused(name):
    assert_refused(layout_dict(attributes={name: {"num_heads": 1}}), r"layout\.attributes\[")


BAD_COUNTS: list[Any] = [0, -1, 5, 2**62, True, 2.0, "2", None, [2], {"a": 1}]


@pytest.mark.parametrize("count", BAD_COUNTS, ids=str)
def test_counts_that_do_not_fit_are_refused(count):
    field = rf"layout\.attributes\['{ATTENTION}'\]\['num_attention_heads'\] should be"
    assert_refused(layout_dict(attributes={ATTENTION: {"num_attention_heads": count}}), field)


@pytest.mark.parametrize("attribute", ["forward", "__class__", "training", "dropout", "", 3])
def test_other_attributes_than_the_known_counts_are_refused(attribute):
    field = rf"layout\.attributes\['{ATTENTION}'\] should be of the counts"
    assert_refused(layout_dict(attributes={ATTENTION: {attribute: 1}}), field)


def test_a_count_that_the_module_does_not_keep_is_refused():
    field = rf"layout\.attributes\['{ATTENTION}'\]\['nhead'\] should be a count of at most None"
    assert_refused(layout_dict(attributes={ATTENTION: {"nhead": 1}}), field)


def test_counts_that_are_no_mapping_are_refused():
    values = layout_dict(attributes={ATTENTION: ["num_attention_heads", 2]})
    assert_refused(values, r"layout\.attributes\[.*\] should be a mapping")


@pytest.mark.parametrize(("of", "to"), [("bert", "bert.base"), ("bert.base", "bert")])
def test_names_follow_the_prefix_of_the_model(of, to):
    def pick(name: str) -> Any:
        return STOCK.base_model if name.endswith("base") else STOCK

    prefix = "bert."
    own = {n: n if of == "bert" else n.removeprefix(prefix) for n in (WEIGHT, ATTENTION)}
    layout = CompactLayout(shapes={own[WEIGHT]: (8, 32)}, attributes={own[ATTENTION]: {}})
    found = layout.for_model(pick(to))
    expected = {n: n if to == "bert" else n.removeprefix(prefix) for n in (WEIGHT, ATTENTION)}
    assert list(found.shapes) == [expected[WEIGHT]]
    assert list(found.attributes) == [expected[ATTENTION]]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PARAMETERS = st.sampled_from(sorted(parameters_of(STOCK)))
MODULES = st.sampled_from(sorted(name for name, _ in STOCK.named_modules()))
SHAPES = st.lists(st.integers(-1, 40), max_size=3)
LAYOUTS = st.fixed_dictionaries(
    {
        "quant_method": st.just(QUANT_METHOD),
        "version": st.just(VERSION) | JSON_VALUES,
        "shapes": st.dictionaries(PARAMETERS | st.text(max_size=5), SHAPES | JSON_VALUES),
        "attributes": st.dictionaries(
            MODULES | st.text(max_size=5),
            st.dictionaries(st.sampled_from(sorted(COUNTS)), st.integers(-1, 9)) | JSON_VALUES,
        ),
    }
)


def error_of(action: Callable[[], Any]) -> ValueError | None:
    """Return the ValueError that an action raises, or None; raise any other error."""
    try:
        action()
    except ValueError as error:
        return error
    return None


@given(JSON_VALUES | LAYOUTS | st.dictionaries(st.sampled_from(sorted(layout_dict())), JSON_VALUES))
def test_any_value_is_refused_or_makes_the_model_smaller(values):
    kept = copy.deepcopy(values)
    model = empty_stock()
    stock = {name: tuple(p.shape) for name, p in parameters_of(model).items()}
    error = error_of(lambda: apply_layout(model, CompactLayout.from_dict(values).for_model(model)))
    found = {name: tuple(p.shape) for name, p in parameters_of(model).items()}
    assert error is None or "malformed compact layout: layout" in str(error)
    assert error is None or found == stock
    for name, shape in found.items():
        assert len(shape) == len(stock[name])
        assert all(1 <= a <= b for a, b in zip(shape, stock[name], strict=True))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert repr(values) == repr(kept)


@given(st.dictionaries(PARAMETERS, SHAPES, min_size=1, max_size=2))
def test_any_shape_is_refused_by_name_or_taken(shapes):
    stock = {name: tuple(p.shape) for name, p in parameters_of(STOCK).items()}
    fits = {
        name: len(shape) == len(stock[name])
        and all(1 <= a <= b for a, b in zip(shape, stock[name], strict=True))
        for name, shape in shapes.items()
    }
    if all(fits.values()):
        found = parameters_of(apply(layout_dict(shapes=shapes)))
        assert {name: list(found[name].shape) for name in shapes} == shapes
    else:
        assert_refused(layout_dict(shapes=shapes), r"layout\.shapes\[")
