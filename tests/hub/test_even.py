"""A refused stock export names the nearest even widths, and the call that gets there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hf_td import compact_model, export_model, prune_model, prune_units
from tests.experts.mixtures import ONLY, mixture
from tests.tiny import tiny_model


def refused(model: Any, folder: Any, form: str = "stock") -> str:
    with pytest.raises(ValueError, match="stock config") as caught:
        export_model(model, folder, form=form, check=False, multiple_of=1)
    return str(caught.value)


def called(message: str, model: Any) -> None:
    """Run the call of prune_model that a message gives."""
    call = re.search(r"prune_model\(.*?\)(?=,|$)", message)
    assert call is not None, message
    eval(call[0], {"prune_model": prune_model, "model": model})


def test_the_call_of_the_message_gives_a_stock_export(tmp_path):
    units = {"heads": {0: [0]}, "neurons": {0: list(range(40)), 1: list(range(16))}}
    model = tiny_model("llama")
    prune_units(model, units)
    message = refused(model, tmp_path / "uneven")
    assert "The nearest that a stock config can say is 36 of 64 neurons in every layer" in message
    fresh = tiny_model("llama")
    called(message, fresh)
    export = export_model(fresh, tmp_path / "even", form="stock", check=False, multiple_of=1)
    assert export.parameters < fresh.num_parameters()
    assert "hf-td prune --sparsity " in message


def test_a_compact_model_is_told_the_widths_of_the_whole_one(tmp_path):
    model = tiny_model("bert")
    prune_units(model, {"neurons": {0: list(range(40)), 1: list(range(16))}})
    masked = refused(model, tmp_path / "masked")
    compact_model(model, multiple_of=1)
    message = refused(model, tmp_path / "compact")
    for one in (masked, message):
        assert "36 of 64 neurons in every layer" in one
        assert "prune_model(model, {'feed_forward': 28}, level='unit')" in one


def test_where_a_stock_config_can_say_nothing_smaller_the_message_says_so(tmp_path):
    model = tiny_model("bert")
    prune_units(model, {"heads": {0: [0, 1], 1: [2, 3]}})
    message = refused(model, tmp_path / "heads")
    assert "No stock config says fewer units than the whole model has" in message


@pytest.mark.parametrize("form", ["stock", "padded"])
def test_uneven_experts_are_told_an_even_number(form, tmp_path):
    model = mixture("mixtral")
    prune_model(model, 0.5, importance="magnitude", include=["model.layers.0.*"], **ONLY)
    message = refused(model, tmp_path / "uneven", form)
    assert "is 6 of 8 experts in every layer" in message
    fresh = mixture("mixtral")
    called(message, fresh)
    assert export_model(fresh, tmp_path / "even", form=form, check=False).form == form
