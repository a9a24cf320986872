"""Descriptions of blocks that the reader does not find."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf

from hf_td import AttentionBlocks, FeedForwardBlocks, patch_model, read_anatomy, register_family
from hf_td.anatomy import Anatomy
from tests.anatomy.known import everything_of
from tests.tiny import tiny_model

MIXED = "a norm mixes them"
NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}


def attention(path: str = "layers.*.self_attn", **changes: Any) -> AttentionBlocks:
    names = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads", **NAMES}
    return AttentionBlocks(path=path, **{**names, **changes})


def feed_forward(**changes: Any) -> FeedForwardBlocks:
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj", **changes}
    return FeedForwardBlocks(path="layers.*.mlp", **names)


def bitnet() -> Any:
    """Norms before its consumers mix heads and neurons, so that no unit can be proven."""
    config = hf.BitNetConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    return hf.BitNetForCausalLM(config)


def llama() -> Any:
    return tiny_model("llama")  # four query heads, two of key and value


def read(family: Any, model: Any, *blocks: Any) -> Anatomy:
    register_family(family, *blocks)
    return read_anatomy(model)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.registry._FAMILIES", {})


def test_a_model_that_is_refused_can_be_described():
    model = bitnet()
    with pytest.raises(ValueError, match="found no attention or feed-forward block"):
        patch_model(model)
    anatomy = read("bitnet", model, attention(obstacle=MIXED), feed_forward(obstacle=MIXED))
    assert [b.name for b in anatomy.blocks] == [
        f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn", "mlp")
    ]
    assert {b.obstacle for b in anatomy.blocks} == {MIXED}
    patch_model(model, level="weight")
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "TargetedLinear"


def test_what_cannot_be_dropped_is_refused_at_the_unit_level():
    model = bitnet()
    register_family("bitnet", feed_forward(obstacle=MIXED))
    with pytest.raises(ValueError, match=r"the units of model\.layers\.0\.mlp .* a norm mixes"):
        patch_model(model, level="unit")


def test_units_that_the_probe_contradicts_are_refused():
    register_family("bitnet", feed_forward())
    with pytest.raises(ValueError, match=r"layers\.0\.mlp is contradicted by the model"):
        read_anatomy(bitnet())


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 4, "kv_heads": 4}, {"heads": 8, "kv_heads": 8}, {"q": "o_proj", "o": "q_proj"}],
    ids=["no groups", "too many heads", "wrong names"],
)
def test_a_wrong_description_is_refused(wrong):
    register_family("llama", attention(**wrong))
    with pytest.raises(ValueError, match="contradicted by the model"):
        read_anatomy(llama())


def test_a_right_description_gives_what_the_reader_finds():
    model = llama()
    expected = everything_of(read_anatomy(model))
    assert everything_of(read(hf.LlamaModel, model, attention(), feed_forward())) == expected
    # Other blocks are found as before.
    assert everything_of(read(hf.LlamaModel, model, feed_forward())) == expected
    assert everything_of(read(hf.LlamaModel, model)) == expected


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (attention(path="blocks.*.attn"), r"LlamaModel has no module 'blocks\.\*\.attn'"),
        (attention(q="query"), r"expected a linear layer at layers\.0\.self_attn\.query, found n"),
        (attention(heads="n_heads"), "LlamaConfig has no field 'n_heads'"),
        (attention(kv_heads=3), "32 features, which 3 units cannot share evenly"),
    ],
)
def test_a_description_that_fits_no_module_is_refused(blocks, message):
    register_family("llama", blocks)
    with pytest.raises(ValueError, match=message):
        read_anatomy(llama())


def test_a_layer_that_is_never_called_is_refused():
    config = hf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    head = {"q": "out_proj", "k": "out_proj", "v": "out_proj", "o": "out_proj"}
    blocks = AttentionBlocks(path="head.attention", heads=4, **head)
    register_family(hf.SiglipVisionModel, blocks)
    with pytest.raises(ValueError, match=r"head\.attention, is never called"):
        read_anatomy(hf.SiglipVisionModel(config))


def test_without_a_forward_only_weights_can_be_targeted(monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no forward")

    model = llama()
    monkeypatch.setattr(hf.LlamaModel, "forward", fails)
    with pytest.raises(ValueError, match="cannot make an example input"):
        read_anatomy(model)
    anatomy = read("llama", model, attention())
    assert {b.obstacle for b in anatomy.blocks} == {
        "no forward of it could be run, so its units are not proven"
    }
