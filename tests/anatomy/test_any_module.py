"""Reading modules of any class, by the gradients between their layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from hf_td import Anatomy, patch_model, read_anatomy
from hf_td.anatomy import Block
from tests.anatomy.known import KNOWN, assert_reads, neurons
from tests.tiny import IMAGE, TEXT, tiny_model


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
    """A feed-forward with a layer whose weight is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(super().forward(x), self.mix.weight)


class ReadTwice(FeedForward):
    """A feed-forward whose neurons a second layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        return x + self.down(hidden) + self.aside(hidden.mean(-2, keepdim=True))


class GivenOut(FeedForward):
    """A feed-forward whose neurons are an output of the model too."""

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
    message = r"cannot make an example input for Stack: .*\. Pass example_inputs=\{\.\.\.\}"
    with pytest.raises(ValueError, match=message):
        read_anatomy(Stack(FeedForward))


def test_an_input_of_unknown_kind_is_refused_by_name():
    class WaveModel(hf.BertModel):
        main_input_name = "waves"

        def forward(self, waves: Tensor) -> Tensor:
            return waves

    model = WaveModel(hf.BertConfig(**TEXT))
    message = r"for WaveModel: its main input is 'waves', .*'decoder_input_ids', .*'input_ids',"
    with pytest.raises(ValueError, match=message):
        read_anatomy(model)


def test_a_main_input_that_a_forward_does_not_take_is_passed_over():
    model: Any = tiny_model("bert")
    model.base_model.main_input_name = "waves"
    assert_reads(read_anatomy(model), KNOWN["bert"])


def test_a_tower_that_the_model_does_not_run_on_an_example_is_read_by_itself():
    vision = hf.CLIPVisionConfig(**{**IMAGE, "patch_size": 8})
    model = hf.LlavaModel(hf.LlavaConfig(vision_config=vision, text_config=hf.LlamaConfig(**TEXT)))
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
    message = r"units of layers.0 cannot be dropped: the output of layers.0.up is .*_level='weight'"
    with pytest.raises(ValueError, match=message):
        patch_model(Stack(ReadTwice), level="unit", example_inputs=example())
    patch_model(Stack(ReadTwice), level="weight", example_inputs=example())


def test_a_single_layer_without_a_number_is_not_taken_for_a_block():
    assert read_anatomy(FeedForward(), example()).blocks == ()
