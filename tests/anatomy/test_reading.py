"""What the reading finds, against what is known of each architecture."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import Anatomy, patch_model, read_anatomy
from hf_td.anatomy import Block, Projection
from tests.tiny import FAMILIES, checkpoint_activations, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def nothing_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.reading._READINGS", {})


class Row(NamedTuple):
    """A projection: unit `u` has the features `start + u * step`, and `size` of them."""

    module: str
    role: str
    units: int
    size: int
    start: int = 0
    step: int | None = None

    def features(self) -> Tensor:
        step = self.size if self.step is None else self.step
        return self.start + torch.arange(self.units)[:, None] * step + torch.arange(self.size)


def attention(*names: str) -> list[Row]:
    """Four heads of eight channels, in four layers."""
    return [Row(name, role, 4, 8) for name, role in zip(names, "qkvo", strict=True)]


def neurons(*names: str, width: int = 64) -> list[Row]:
    roles = ["up", "down"] if len(names) == 2 else ["gate", "up", "down"]
    return [Row(name, role, width, 1) for name, role in zip(names, roles, strict=True)]


def per_head(fused: str, out: str) -> list[Row]:
    """Fused head by head: query, key and value of the first, then of the second, ..."""
    parts = [Row(fused, role, 4, 8, 8 * i, 24) for i, role in enumerate("qkv")]
    return [*parts, Row(out, "o", 4, 8)]


def in_thirds(fused: str, out: str) -> list[Row]:
    """Fused one after the other: all queries, all keys, all values."""
    parts = [Row(fused, role, 4, 8, 32 * i) for i, role in enumerate("qkv")]
    return [*parts, Row(out, "o", 4, 8)]


def grouped(q: str, k: str, v: str, o: str) -> list[Row]:
    """Four query heads in two groups: a unit has two query heads and one of key and value."""
    return [Row(q, "q", 2, 16), Row(k, "k", 2, 8), Row(v, "v", 2, 8), Row(o, "o", 2, 16)]


def bert_like(base: str) -> list[list[Row]]:
    layer, self_attention = f"{base}.encoder.layer.#", f"{base}.encoder.layer.#.attention.self"
    heads = [f"{self_attention}.{name}" for name in ("query", "key", "value")]
    return [
        attention(*heads, f"{layer}.attention.output.dense"),
        neurons(f"{layer}.intermediate.dense", f"{layer}.output.dense"),
    ]


def t5_attention(path: str) -> list[Row]:
    return attention(*(f"{path}.{name}" for name in "qkvo"))


def t5(*feed_forward: str) -> list[list[Row]]:
    def dense(stack: str, place: int) -> list[Row]:
        path = f"{stack}.block.#.layer.{place}.DenseReluDense"
        return neurons(*(f"{path}.{name}" for name in feed_forward))

    return [
        t5_attention("encoder.block.#.layer.0.SelfAttention"),
        dense("encoder", 1),
        t5_attention("decoder.block.#.layer.0.SelfAttention"),
        t5_attention("decoder.block.#.layer.1.EncDecAttention"),
        dense("decoder", 2),
    ]


_LLAMA, _DISTILBERT = "model.layers.#", "distilbert.transformer.layer.#"

# The blocks of a layer; `#` is its number.
KNOWN: dict[str, list[list[Row]]] = {
    "bert": bert_like("bert"),
    "roberta": bert_like("roberta"),
    "distilbert": [
        attention(*(f"{_DISTILBERT}.attention.{n}_lin" for n in ("q", "k", "v", "out"))),
        neurons(f"{_DISTILBERT}.ffn.lin1", f"{_DISTILBERT}.ffn.lin2"),
    ],
    "gpt2": [
        in_thirds("transformer.h.#.attn.c_attn", "transformer.h.#.attn.c_proj"),
        neurons("transformer.h.#.mlp.c_fc", "transformer.h.#.mlp.c_proj", width=128),
    ],
    "llama": [
        grouped(*(f"{_LLAMA}.self_attn.{n}_proj" for n in "qkvo")),
        neurons(*(f"{_LLAMA}.mlp.{n}_proj" for n in ("gate", "up", "down"))),
    ],
    "t5": t5("wi", "wo"),
    "t5_gated": t5("wi_0", "wi_1", "wo"),
    "vit": [
        attention(*(f"vit.layers.#.attention.{n}_proj" for n in "qkvo")),
        neurons("vit.layers.#.mlp.fc1", "vit.layers.#.mlp.fc2"),
    ],
}

_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}
# Layouts that the families above do not have.
FUSED: dict[str, tuple[Callable[[], PreTrainedModel], list[list[Row]]]] = {
    "phi3": (
        lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_TEXT, num_key_value_heads=2)),
        [
            [
                Row(f"{_LLAMA}.self_attn.qkv_proj", "q", 2, 16),
                Row(f"{_LLAMA}.self_attn.qkv_proj", "k", 2, 8, 32),
                Row(f"{_LLAMA}.self_attn.qkv_proj", "v", 2, 8, 48),
                Row(f"{_LLAMA}.self_attn.o_proj", "o", 2, 16),
            ],
            [
                Row(f"{_LLAMA}.mlp.gate_up_proj", "gate", 64, 1),
                Row(f"{_LLAMA}.mlp.gate_up_proj", "up", 64, 1, 64),
                Row(f"{_LLAMA}.mlp.down_proj", "down", 64, 1),
            ],
        ],
    ),
    "gpt_neox": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_TEXT)),
        [
            per_head(
                "gpt_neox.layers.#.attention.query_key_value", "gpt_neox.layers.#.attention.dense"
            ),
            neurons("gpt_neox.layers.#.mlp.dense_h_to_4h", "gpt_neox.layers.#.mlp.dense_4h_to_h"),
        ],
    ),
    "modernbert": (
        lambda: hf.ModernBertModel(hf.ModernBertConfig(**_TEXT, cls_token_id=1, sep_token_id=2)),
        [
            in_thirds("layers.#.attn.Wqkv", "layers.#.attn.Wo"),
            [
                Row("layers.#.mlp.Wi", "gate", 64, 1),
                Row("layers.#.mlp.Wi", "up", 64, 1, 64),
                Row("layers.#.mlp.Wo", "down", 64, 1),
            ],
        ],
    ),
}


def assert_reads(anatomy: Anatomy, known: list[list[Row]], layers: int = 2) -> None:
    """Just the known blocks, in each layer."""
    expected = {
        re.sub("#", str(i), rows[-1].module): [
            row._replace(module=re.sub("#", str(i), row.module)) for row in rows
        ]
        for rows in known
        for i in range(layers)
    }
    assert {block.consumer.module for block in anatomy.blocks} == expected.keys()
    for block in anatomy.blocks:
        rows = expected[block.consumer.module]
        assert block.units == rows[-1].units
        assert block.part == ("attention" if rows[-1].role == "o" else "feed_forward")
        assert block.obstacle is None
        found = {(p.module, p.role): p.features for p in block.projections}
        assert found.keys() == {(row.module, row.role) for row in rows}
        for row in rows:
            assert_close(found[row.module, row.role], row.features())


def everything_of(anatomy: Anatomy) -> list[Any]:
    return [
        [b.name, b.part, b.units, b.obstacle]
        + [[p.module, p.role, p.features.tolist()] for p in b.projections]
        for b in anatomy.blocks
    ] + [anatomy.unclaimed, anatomy.uncalled]


@every_family
def test_each_family_is_read_as_it_is_known(family):
    assert_reads(read_anatomy(tiny_model(family)), KNOWN[family])


@pytest.mark.parametrize(("make", "known"), FUSED.values(), ids=FUSED)
def test_fused_and_interleaved_layouts_are_slices(make, known):
    assert_reads(read_anatomy(make()), known)


@every_family
def test_what_lies_outside_of_the_blocks_is_reported_and_all_is_called(family):
    anatomy = read_anatomy(tiny_model(family))
    claimed = {name for block in anatomy.blocks for name in block.modules}
    assert not claimed & set(anatomy.unclaimed)
    assert not anatomy.uncalled
    heads = ("classifier", "pooler", "lm_head")
    assert all(any(part in name for part in heads) for name in anatomy.unclaimed)


@every_family
def test_blocks_come_in_the_order_in_which_the_model_runs_them(family):
    model, ran = tiny_model(family), []
    anatomy = read_anatomy(model)
    for block in anatomy.blocks:
        name = block.consumer.module
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model(**tiny_inputs(model))
    assert [block.consumer.module for block in anatomy.blocks] == ran


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "bert.encoder.layer.0.attention"),
        ("gpt2", "transformer.h.0.attn"),
        ("llama", "model.layers.0.self_attn"),
        ("t5", "encoder.block.0.layer.0.SelfAttention"),
    ],
)
def test_a_block_is_named_by_the_path_of_its_projections(family, name):
    block = read_anatomy(tiny_model(family)).blocks[0]
    assert block.name == name
    assert block.layer == 0


def test_a_base_model_and_one_with_a_head_are_read_alike():
    model: Any = tiny_model("bert")
    base = read_anatomy(model.bert)
    whole = read_anatomy(model)
    assert [f"bert.{b.name}" for b in base.blocks] == [b.name for b in whole.blocks]
    modules = [n for b in base.blocks for n in b.modules]
    assert [f"bert.{n}" for n in modules] == [n for b in whole.blocks for n in b.modules]


def test_multi_query_attention_is_still_found():
    config = hf.LlamaConfig(**_TEXT, num_key_value_heads=1)
    anatomy = read_anatomy(hf.LlamaForCausalLM(config))
    claimed = {name for block in anatomy.blocks for name in block.modules}
    assert "model.layers.0.self_attn.q_proj" in claimed


# --- the model is left as it was ---


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


@every_family
def test_reading_leaves_the_model_and_all_random_states_alone(family):
    model = tiny_model(family)
    modules = list(model.modules())
    for module in modules[::2]:
        module.training = True
    parameters = list(model.parameters())
    for parameter in parameters[::3]:
        parameter.requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    modes = [m.training for m in modules]
    frozen = [p.requires_grad for p in parameters]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_states = torch.get_rng_state(), random.getstate(), numpy_state()
    anatomy = read_anatomy(model)
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert numpy_state() == random_states[2]
    assert [m.training for m in modules] == modes
    assert [p.requires_grad for p in parameters] == frozen
    assert list(model.modules()) == modules
    assert not any("forward" in m.__dict__ for m in modules)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert_close(parameters[1].grad, torch.ones_like(parameters[1]))
    assert all(p.grad is None for i, p in enumerate(parameters) if i != 1)
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert_reads(anatomy, KNOWN[family])


def test_a_forward_replaced_on_the_instance_is_put_back():
    model: Any = tiny_model("bert")
    layer = model.bert.encoder.layer[0].output.dense
    replaced = layer.forward
    layer.forward = replaced
    read_anatomy(model)
    assert layer.__dict__["forward"] is replaced


def test_the_model_is_left_as_it_was_when_its_forward_fails():
    model = tiny_model("bert").train()
    with pytest.raises(ValueError, match="You must specify exactly one of input_ids"):
        read_anatomy(model, {"nonsense": 1})
    assert all(m.training for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5_gated", "vit"])
@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.requires_grad_(False),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to(torch.float16),
        lambda model: model.train(),
        lambda model: checkpoint_activations(model.train()),
    ],
    ids=["frozen", "bfloat16", "float16", "training", "checkpointing"],
)
def test_every_state_of_a_model_is_read_alike(family, change):
    model = tiny_model(family)
    change(model)
    assert_reads(read_anatomy(model), KNOWN[family])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_is_read_where_gradients_are_off(context):
    model = tiny_model("bert")
    with context():
        assert_reads(read_anatomy(model), KNOWN["bert"])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_patched_model_is_read_alike(family, level):
    model = patch_model(tiny_model(family), level=level)
    assert_reads(read_anatomy(model), KNOWN[family])


# --- readings are kept ---


def test_a_second_reading_of_the_same_architecture_is_the_first():
    first = read_anatomy(tiny_model("bert"))
    assert read_anatomy(tiny_model("bert", seed=1)) is first
    assert read_anatomy(tiny_model("roberta")) is not first


def test_other_shapes_are_read_anew():
    configs = [hf.BertConfig(**{**_TEXT, "num_attention_heads": heads}) for heads in (4, 2)]
    units = [read_anatomy(hf.BertModel(config)).blocks[0].units for config in configs]
    assert units == [4, 2]


def test_other_heads_of_a_decoder_are_read_anew():
    units = []
    for heads in (4, 2):
        config = hf.BartConfig(
            vocab_size=64,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            encoder_attention_heads=4,
            decoder_attention_heads=heads,
            max_position_embeddings=32,
        )
        anatomy = read_anatomy(hf.BartForConditionalGeneration(config))
        units.append([b.units for b in anatomy.blocks if b.part == "attention"])
    assert units == [[4, 4, 4], [4, 2, 2]]


# --- modules of any kind ---


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def hidden(self, x: Tensor) -> Tensor:
        return self.up(self.norm(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.hidden(x))


class DirectlyRead(FeedForward):
    """Has a layer whose weight is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(super().forward(x), self.mix.weight)


class ReadTwice(FeedForward):
    """A second layer reads the neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        return x + self.down(hidden) + self.aside(hidden.mean(-2, keepdim=True))


class GivenOut(FeedForward):
    """The neurons are an output too."""

    def forward(self, x: Tensor) -> Any:
        hidden = self.hidden(x)
        return {"output": x + self.down(hidden), "hidden": [hidden.sum(-1)]}


class Stack(nn.Module):
    def __init__(self, layer: type[FeedForward], depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([layer() for _ in range(depth)])

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers[:-1]:
            out = layer(x)
            x = out["output"] if isinstance(out, dict) else out
        return self.layers[-1](x)


def example() -> dict[str, Any]:
    return {"x": torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(0))}


def only_feed_forward(anatomy: Anatomy) -> dict[str, Block]:
    assert {block.part for block in anatomy.blocks} == {"feed_forward"}
    return {block.consumer.module: block for block in anatomy.blocks}


def test_a_plain_module_is_read_by_its_example_inputs():
    anatomy = read_anatomy(Stack(FeedForward), example())
    known = [neurons("layers.#.up", "layers.#.down", width=16)]
    assert_reads(anatomy, known)
    assert anatomy.unclaimed == anatomy.uncalled == ()


def test_a_plain_module_without_example_inputs_is_refused():
    message = r"cannot make an example input for Stack: .*; pass example_inputs=\{\.\.\.\}"
    with pytest.raises(ValueError, match=message):
        read_anatomy(Stack(FeedForward))


def test_an_input_of_unknown_kind_is_refused_by_name():
    class WaveModel(hf.BertModel):
        main_input_name = "waves"

        def forward(self, waves: Tensor) -> Tensor:
            return waves

    model = WaveModel(hf.BertConfig(**_TEXT))
    message = r"for WaveModel: its main input is 'waves', .*'decoder_input_ids', .*'input_ids',"
    with pytest.raises(ValueError, match=message):
        read_anatomy(model)


def test_a_main_input_that_a_forward_does_not_take_is_passed_over():
    model: Any = tiny_model("bert")
    model.base_model.main_input_name = "waves"
    assert_reads(read_anatomy(model), KNOWN["bert"])


def test_a_tower_that_the_model_does_not_run_on_an_example_is_read_by_itself():
    vision = hf.CLIPVisionConfig(**_VISION)
    model = hf.LlavaModel(hf.LlavaConfig(vision_config=vision, text_config=hf.LlamaConfig(**_TEXT)))
    anatomy = read_anatomy(model)
    assert anatomy.runs == ("", "vision_tower")
    assert [b.name for b in anatomy.blocks if b.part == "attention"] == [
        "language_model.layers.0.self_attn",
        "language_model.layers.1.self_attn",
        "vision_tower.encoder.layers.0.self_attn",
        "vision_tower.encoder.layers.1.self_attn",
    ]
    assert not any(name.startswith("vision_tower") for name in anatomy.uncalled)


def test_projections_that_differ_in_a_number_only_stay_apart():
    config = hf.CTRLConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, dff=64, n_positions=16)
    blocks = [b for b in read_anatomy(hf.CTRLModel(config)).blocks if b.part == "feed_forward"]
    assert [b.modules for b in blocks] == [(f"h.{i}.ffn.0", f"h.{i}.ffn.2") for i in range(2)]


def test_layers_that_no_forward_calls_are_reported():
    anatomy = read_anatomy(Stack(DirectlyRead), example())
    assert anatomy.uncalled == anatomy.unclaimed == ("layers.0.mix", "layers.1.mix")
    assert only_feed_forward(anatomy).keys() == {"layers.0.down", "layers.1.down"}


def test_units_that_a_second_layer_reads_have_an_obstacle():
    blocks = only_feed_forward(read_anatomy(Stack(ReadTwice), example()))
    for i in (0, 1):
        message = f"the output of layers.{i}.up is also read elsewhere in the model"
        assert blocks[f"layers.{i}.down"].obstacle == message


def test_units_that_are_an_output_of_the_model_have_an_obstacle():
    blocks = only_feed_forward(read_anatomy(Stack(GivenOut), example()))
    assert blocks["layers.0.down"].obstacle is None
    assert blocks["layers.1.down"].obstacle is not None


def test_units_with_an_obstacle_are_patched_by_weights_only():
    message = r"units of layers.0 cannot be dropped: the output of layers.0.up is .*exclude="
    with pytest.raises(ValueError, match=message):
        patch_model(Stack(ReadTwice), level="unit", example_inputs=example())
    patch_model(Stack(ReadTwice), level="weight", example_inputs=example())


def test_a_single_layer_without_a_number_is_not_taken_for_a_block():
    assert read_anatomy(FeedForward(), example()).blocks == ()


# --- brute force: what a unit's consumer does not read does not matter ---


def outputs(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


def rows_of(model: nn.Module, projection: Projection, unit: int) -> list[Tensor]:
    """The slices of the weight and of a producer's bias that belong to a unit, one for each."""
    layer: Any = model.get_submodule(projection.module)
    weight = layer.weight.data.movedim(projection.feature_dim(model), 0)
    rows = [weight[i] for i in projection.features[unit].tolist()]
    if layer.bias is None or projection.reads:
        return rows
    return rows + [layer.bias.data[i] for i in projection.features[unit].tolist()]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5_gated"])
def test_producers_of_a_unit_reach_the_output_through_its_consumer_alone(family):
    anatomy = read_anatomy(tiny_model(family))
    for block in anatomy.blocks[-2:]:
        for unit in {0, 1, block.units - 1}:
            model = tiny_model(family)
            before = outputs(model)
            for row in (r for p in block.producers for r in rows_of(model, p, unit)):
                row.add_(torch.randn(row.shape))
            assert not torch.equal(outputs(model), before)
            model = tiny_model(family)
            for column in rows_of(model, block.consumer, unit):
                column.zero_()
            without = outputs(model)
            for row in (r for p in block.producers for r in rows_of(model, p, unit)):
                row.add_(torch.randn(row.shape))
            assert torch.equal(outputs(model), without)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_producer_of_a_unit_matters_to_it(family):
    anatomy = read_anatomy(tiny_model(family))
    for block in anatomy.blocks[-2:]:
        for producer in block.producers:
            model = tiny_model(family)
            before = outputs(model)
            for row in rows_of(model, producer, 1):
                row.add_(torch.randn(row.shape))
            assert not torch.equal(outputs(model), before), producer.role
