"""What is read of a big model, most of whose layers are skipped, is what running them all shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from hf_td import read_anatomy
from hf_td.anatomy import reading, repeats
from hf_td.anatomy.inputs import probe_inputs
from hf_td.anatomy.trace import thawed, trace
from tests.families import TABLE, tiny_family
from tests.tiny import FAMILIES

DEEP = 7


def deep(family: str) -> Any:
    """A model of a family with more layers than the tiny one has."""
    tiny = (FAMILIES[family] if family in FAMILIES else lambda: tiny_family(family))()
    config = tiny.config
    fields = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")
    for name in fields:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, DEEP)
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * DEEP)[:DEEP]
    torch.manual_seed(0)
    return type(tiny)(config).eval()


def told(model: Any, whole: bool, monkeypatch: Any) -> Any:
    """All that a reading says, as plain values."""
    with monkeypatch.context() as patch:
        if whole:
            patch.setattr(repeats, "_groups", lambda layers: [])
        anatomy = reading._read(model, None)
    blocks = [
        (b.name, b.part, b.units, b.obstacle, [_plain(p) for p in b.projections], _companions(b))
        for b in anatomy.blocks
    ]
    return blocks, anatomy.unclaimed, anatomy.uncalled, anatomy.runs, anatomy.unread


def _plain(projection: Any) -> tuple[Any, ...]:
    return projection.module, projection.role, projection.features.tolist()


def _companions(block: Any) -> list[tuple[Any, ...]]:
    return [(c.parameter, c.dim, c.features.tolist()) for c in block.companions]


@pytest.mark.parametrize("family", sorted({*FAMILIES, *TABLE}))
def test_a_deep_model_is_read_as_if_every_layer_was_run(family, monkeypatch):
    model = deep(family)
    assert told(model, False, monkeypatch) == told(model, True, monkeypatch)
    assert "forward" not in {key for module in model.modules() for key in vars(module)}


def skipped(model: Any) -> dict[str, str]:
    with thawed(model):
        return dict(trace(model, probe_inputs(model)).skipped)


def test_all_but_the_first_two_and_the_last_are_skipped():
    like = "encoder.layer.1"
    expected = {f"encoder.layer.{place}": like for place in range(2, DEEP - 1)}
    assert skipped(deep("bert").bert) == expected
    assert len(read_anatomy(deep("bert")).blocks) == 2 * DEEP


def change_class(layer: Any) -> None:
    class Other(type(layer.intermediate)):
        pass

    layer.intermediate.__class__ = Other


def change_setting(layer: Any) -> None:
    layer.attention.self.is_causal = True


def change_shape(layer: Any) -> None:
    layer.intermediate.dense = nn.Linear(32, 48)
    layer.output.dense = nn.Linear(48, 32)


def change_hook(layer: Any) -> None:
    layer.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [change_class, change_setting, change_shape, change_hook])
def test_a_layer_that_differs_is_run(change, monkeypatch):
    model = deep("bert")
    change(model.bert.encoder.layer[4])
    assert set(skipped(model.bert)) == {f"encoder.layer.{place}" for place in (2, 3, 5)}
    assert told(model, False, monkeypatch) == told(model, True, monkeypatch)


def test_layers_that_share_a_module_are_run():
    model = deep("bert")
    for layer in model.bert.encoder.layer:
        layer.intermediate = model.bert.encoder.layer[0].intermediate
    assert skipped(model.bert) == {}


def test_a_layer_that_is_given_something_else_is_run():
    model = deep("bert")

    def fewer_tokens_in_the_end(
        hidden: Any, *_: Any, **__: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        for place, layer in enumerate(model.bert.encoder.layer):
            hidden = layer(hidden[:, :4] if place >= 4 else hidden)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    model.bert.encoder.forward = fewer_tokens_in_the_end
    first, later = "encoder.layer.1", "encoder.layer.4"
    expected = {"encoder.layer.2": first, "encoder.layer.3": first, "encoder.layer.5": later}
    assert skipped(model.bert) == expected
