"""Whole layers: read, pruned by name, saved masked, taken out, exported as stock."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.testing import assert_close

from hf_td import compact_model, prune_units, read_anatomy
from hf_td.anatomy import LayerStack, read_stacks
from hf_td.hub import export_model
from hf_td.modules.passing import passed_layers
from tests.deep import LAYERS, deep_family
from tests.families import TABLE, family_inputs, family_outputs
from tests.tiny import IMAGE, SPECIAL, TEXT

every_stack = pytest.mark.parametrize("name", [n for n in TABLE if not TABLE[n].no_layers])


def gone_of(stack: LayerStack) -> list[int]:
    return [1, 2] if 0 in stack.fixed else [0, 2]


def without_layers(model: Any) -> dict[str, Tensor]:
    """Prune two of four layers of each stack by name, and return the outputs."""
    prune_units(model, {"layers": {s.name: gone_of(s) for s in read_stacks(model)}})
    return family_outputs(model)


def assert_same(model: Any, expected: dict[str, Tensor]) -> None:
    for key, value in family_outputs(model).items():
        assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def depth_of(config: Any) -> set[int]:
    """Return the lengths that the configs of a model say."""
    values = json.loads(config.to_json_string())
    towers = [values, *(values[key] for key in ("text_config", "vision_config") if key in values)]
    names = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"}
    return {tower[name] for tower in towers for name in names if tower.get(name)}


@pytest.mark.parametrize("name", TABLE)
def test_the_stacks_of_a_family_are_found_or_refused(name):
    family, stacks = TABLE[name], read_stacks(deep_family(name))
    assert len(stacks) == family.stacks
    for stack in stacks:
        if family.no_layers:
            assert str(stack.obstacle).startswith(family.no_layers)
            continue
        assert (stack.units, stack.obstacle) == (LAYERS, None)
        assert list(stack.fixed) == ([0] if family.first_layer else [])
        assert all(why.endswith(f"has {family.first_layer}") for why in stack.fixed.values())


@every_stack
def test_reading_leaves_the_model_as_it_was(name):
    model = deep_family(name)
    expected, state = family_outputs(model), copy.deepcopy(model.state_dict())
    settings, classes = model.config.to_dict(), [type(m) for m in model.modules()]
    attributes = [dict(vars(m)) for m in model.modules()]
    assert read_stacks(model)
    assert model.config.to_dict() == settings
    assert [type(m) for m in model.modules()] == classes
    assert [vars(m).keys() for m in model.modules()] == [a.keys() for a in attributes]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    for key, value in family_outputs(model).items():
        assert torch.equal(value, expected[key])


@every_stack
def test_a_masked_model_is_saved_and_loaded_masked(name, tmp_path):
    model = deep_family(name)
    dense = family_outputs(model)["output"]
    expected = without_layers(model)
    assert not torch.allclose(dense, expected["output"], atol=1e-2)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert passed_layers(again) == passed_layers(model)
    for key, value in family_outputs(again).items():
        assert torch.equal(value, expected[key])
    compact_model(again)
    assert_same(again, expected)


@every_stack
def test_layers_are_taken_out(name, tmp_path):
    model = deep_family(name)
    parameters = model.num_parameters()
    expected = without_layers(model)
    compact_model(model)
    assert_same(model, expected)
    assert model.num_parameters() < parameters
    assert not passed_layers(model)
    assert all(stack.units == LAYERS - 2 for stack in read_stacks(model))
    assert depth_of(model.config) == {LAYERS - 2}
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path)
    assert_same(type(model).from_pretrained(tmp_path), expected)


@every_stack
def test_an_export_is_a_stock_checkpoint_of_fewer_layers(name, tmp_path):
    model = deep_family(name)
    expected = without_layers(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "stock"
    assert_same(model, expected)
    assert len(passed_layers(model)) == 2 * len(read_stacks(model))  # the caller's is left alone
    again = type(model).from_pretrained(done.folder)
    assert depth_of(again.config) == {LAYERS - 2}
    assert_same(again, expected)
    # A stock model of the shrunk config with the remaining weights, and nothing of this package.
    stock = type(model)(type(model.config).from_pretrained(done.folder))
    stock.load_state_dict(again.state_dict())
    assert_same(stock.eval(), expected)


ALONE = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[2] == "code")
ids = model.dummy_inputs["input_ids"]
print(float(model(input_ids=ids).logits.double().sum()), "hf_td" in sys.modules)
"""


@pytest.mark.parametrize(("compact", "code"), [(False, "code"), (True, "stock")])
def test_without_hf_td_a_checkpoint_loads(compact, code, tmp_path, monkeypatch):
    model = deep_family("gpt2")
    without_layers(model)
    if compact:
        compact_model(model)
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        expected = float(model(input_ids=model.dummy_inputs["input_ids"]).logits.double().sum())
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-P", "-c", ALONE, str(tmp_path / "saved"), code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    total, ours = done.stdout.split()
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert ours == "False"


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3", "t5", "vit"])
def test_heads_neurons_and_layers_go_together(name, tmp_path):
    model = deep_family(name)
    stacks = read_stacks(model)
    units: dict[str, Any] = {"heads": {}, "neurons": {}}
    kinds = {"attention": "heads", "feed_forward": "neurons"}
    for block in read_anatomy(model).blocks:
        units[kinds[block.part]][block.name] = range(block.units // 2)
    units["layers"] = {stack.name: [stack.units - 1] for stack in stacks}
    report = prune_units(model, units)
    parts = {b.part: (b.removed, b.total) for b in report.blocks}
    assert parts["layers"] == (1, LAYERS)
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert_same(type(model).from_pretrained(done.folder), expected)
    compact_model(model)
    assert_same(model, expected)
    blocks = read_anatomy(model).blocks
    widths = {block.units for block in blocks if block.part == "feed_forward"}
    assert widths == {TABLE[name].sizes[1] // 2}
    model.save_pretrained(tmp_path / "c")
    assert_same(type(model).from_pretrained(tmp_path / "c"), expected)


def test_layers_are_taken_out_of_a_compact_model(tmp_path):
    model = deep_family("bert")
    blocks = [b for b in read_anatomy(model).blocks if b.part == "attention"]
    prune_units(model, {"heads": {blocks[3].name: [0, 1]}})
    compact_model(model)
    prune_units(model, {"layers": [1]})
    expected = family_outputs(model)
    compact_model(model)
    assert_same(model, expected)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert_same(again, expected)
    heads = [b.units for b in read_anatomy(again).blocks if b.part == "attention"]
    assert heads == [4, 4, 2]


def test_per_layer_lists_follow():
    config = hf.Qwen2Config(
        **{**TEXT, "num_hidden_layers": 4},
        num_key_value_heads=2,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        use_sliding_window=True,
        sliding_window=3,
    )
    model: Any = hf.Qwen2ForCausalLM(config).eval()
    prune_units(model, {"layers": [0, 2]})
    expected = family_outputs(model)
    compact_model(model)
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    assert_same(model, expected)


def noisy(model: Any) -> Any:
    """Return a model with large weights, so that each layer matters."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_a_layer_that_depends_on_its_index_stays():
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, **SPECIAL}
    config = hf.GPT2Config(**sizes, scale_attn_by_inverse_layer_idx=True)
    (stack,) = read_stacks(hf.GPT2LMHeadModel(config))
    assert dict(stack.fixed) == {
        i: f"layer {i + 1} would be layer {i}, which has another attn.scaling" for i in range(3)
    }


def test_what_something_else_reads_is_refused():
    vision = hf.CLIPVisionConfig(**{**IMAGE, "num_hidden_layers": 4})
    text = hf.LlamaConfig(**{**TEXT, "num_hidden_layers": 4})
    config = hf.LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-2, image_token_index=3
    )
    model = noisy(hf.LlavaForConditionalGeneration(config))
    tower, language = read_stacks(model)
    assert language.obstacle is None
    assert "Pass example_inputs that do" in str(tower.obstacle)
    ids = torch.tensor([[5, *[3] * 16, 7, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 16, 16)}
    tower, language = read_stacks(model, inputs)
    assert language.obstacle is None
    assert "without layer 3 the model differs: output 0 differs" in str(tower.obstacle)
    with pytest.raises(ValueError, match="layers cannot be removed: without layer 3 the model"):
        prune_units(model, {"layers": {tower.name: [0]}}, example_inputs=inputs)
    prune_units(model, {"layers": {language.name: [0]}}, example_inputs=inputs)
    expected = model(**inputs).logits
    compact_model(model, example_inputs=inputs)
    assert_close(model(**inputs).logits, expected)


@pytest.mark.parametrize(("outputs", "gone"), [([4], [1, 3]), ([1, 4], [1, 2]), ([2, 3], [0])])
def test_states_that_a_backbone_names_follow(outputs, gone):
    sizes = {name: size for name, size in IMAGE.items() if name != "intermediate_size"}
    chosen: dict[str, Any] = {**sizes, "num_hidden_layers": 4, "out_indices": outputs}
    config = hf.Dinov2Config(**chosen, mlp_ratio=2)
    model = noisy(hf.Dinov2Backbone(config))
    prune_units(model, {"layers": gone})
    pixels = torch.rand(1, 3, 16, 16)
    expected = model(pixels).feature_maps
    compact_model(model)
    assert_close(model(pixels).feature_maps, expected)
    assert model.config.stage_names == ["stem", *(f"stage{i + 1}" for i in range(4 - len(gone)))]


def test_stochastic_depth_is_no_obstacle(tmp_path):
    config = hf.BeitConfig(**{**IMAGE, "num_hidden_layers": 4}, drop_path_rate=0.1)
    model = noisy(hf.BeitForImageClassification(config))
    pixels = torch.rand(1, 3, 16, 16)
    prune_units(model, {"layers": [0, 2]})
    expected = model(pixels).logits
    done = export_model(model, tmp_path / "x", check=False)
    again = hf.BeitForImageClassification.from_pretrained(done.folder)
    assert_close(again(pixels).logits, expected)
    compact_model(model)
    assert_close(model(pixels).logits, expected)


def test_tied_layers_are_refused():
    model: Any = deep_family("bert")
    layers = model.bert.encoder.layer
    layers[2].output.dense.weight = layers[1].output.dense.weight
    (stack,) = read_stacks(model)
    assert "its layers share bert.encoder.layer." in str(stack.obstacle)


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("bert", [4], "has the layers 0 to 3, so 4 cannot be pruned"),
        ("bert", range(4), "has 4 layers, and at least one has to stay"),
        ("t5", [1], r"named by their stack, such as .* the model has 2 stacks, encoder.block"),
        ("t5", {"encoder": [0]}, "layer 0 of encoder.block has to stay: without it layer 1 would"),
        ("t5", {"middle": [0]}, "no single stack of layers 'middle'"),
        ("albert", [0], "albert_layer_groups cannot be removed: layer 0 is shared"),
    ],
)
def test_a_wrong_name_changes_nothing(name, layers, message):
    model, other = deep_family(name), deep_family(name)
    with pytest.raises(ValueError, match=message):
        prune_units(model, {"layers": layers, "neurons": {0: [0]}})
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert not passed_layers(model)


def test_a_failed_cut_puts_the_layers_back(monkeypatch):
    model = deep_family("bert")
    prune_units(model, {"layers": [1], "neurons": {0: range(32)}})
    expected, settings = family_outputs(model), model.config.to_dict()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("a cut that fails")

    monkeypatch.setattr("hf_td.compaction.compact.cut_model", fail)
    with pytest.raises(ValueError, match="a cut that fails"):
        compact_model(model)
    assert model.config.to_dict() == settings
    assert passed_layers(model) == ["bert.encoder.layer.1"]
    for key, value in family_outputs(model).items():
        assert torch.equal(value, expected[key])


def test_gradients_flow_around_a_pruned_layer():
    model: Any = deep_family("bert").train()
    prune_units(model, {"layers": [1]})
    model(**family_inputs(model))[0].square().mean().backward()
    layers = model.bert.encoder.layer
    assert all(p.grad is None or not p.grad.any() for p in layers[1].parameters())
    assert layers[0].output.dense.weight.grad.any()
