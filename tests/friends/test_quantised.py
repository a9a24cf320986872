"""Pruned models are quantised by torchao and by torch; quantised models are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, TorchAoConfig

from hf_td import (
    anneal,
    compact_model,
    export_model,
    patch_model,
    prune_model,
    pruning_curve,
    unpatch_model,
)
from tests.friends.helpers import RISING, friend
from tests.tiny import tiny_inputs, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
every_level = pytest.mark.parametrize("level", ["weight", "unit"])
every_config = pytest.mark.parametrize(
    "config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"]
)


def quantised(model: nn.Module, config: str = "Int8WeightOnlyConfig") -> Any:
    library = friend("torchao.quantization")
    library.quantize_(model, getattr(library, config)())
    return model


def dynamically_quantised(model: nn.Module) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model))[0]


def assert_close_to(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equality up to 8 bits: the error is below 5 % of the largest output."""
    assert_close(got, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    assert not torch.equal(got, expected)


def stages(family: str) -> dict[str, Any]:
    """Return a model with pruned weights, one with pruned units, and a compact one."""
    sparse, masked = tiny_model(family), tiny_model(family)
    prune_model(sparse, 0.5, level="weight")
    prune_model(masked, 0.5, level="unit")
    return {
        "sparse": sparse,
        "masked": masked,
        "compact": compact_model(copy.deepcopy(masked), multiple_of=1),
    }


@every_config
@pytest.mark.parametrize("stage", ["sparse", "masked", "compact"])
@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_a_pruned_model_is_quantised_by_torchao(family, stage, config):
    model = stages(family)[stage]
    expected = outputs(model)
    zeros = {name: p == 0 for name, p in model.named_parameters()}
    assert_close_to(outputs(quantised(model, config)), expected)
    packed = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    assert {type(weight).__name__ for weight in packed} == {"Int8Tensor"}
    for name, weight in model.named_parameters():
        if hasattr(weight, "dequantize"):  # zeros stay zeros
            assert not weight.dequantize()[zeros[name]].any(), name


@pytest.mark.parametrize("stage", ["sparse", "masked", "compact"])
def test_a_pruned_model_is_quantised_by_torch(stage):
    model = stages("bert")[stage]
    assert_close_to(outputs(dynamically_quantised(model)), outputs(model))


def test_torch_leaves_the_layers_of_a_patched_model_as_they_are():
    """It replaces layers of exactly the named classes. Unpatched, it replaces all."""
    model = patch_model(tiny_model("bert"), level="weight", **RISING)
    for one, left in ((model, 12), (unpatch_model(copy.deepcopy(model)), 0)):
        layers = dynamically_quantised(one).modules()
        assert sum(isinstance(layer, nn.Linear) for layer in layers if _in_float(layer)) == left


def _in_float(layer: Any) -> bool:
    return isinstance(getattr(layer, "weight", None), nn.Parameter)


@every_level
def test_a_patched_model_that_torchao_quantised_is_refused(level):
    model = quantised(patch_model(tiny_model("bert"), level=level, **RISING))
    with pytest.raises(TypeError, match=r"was quantised after patching \(Int8Tensor\)"):
        anneal(model, 0.5, 0)
    for change in (prune_model, pruning_curve):
        given: dict[str, Any] = {"evaluate": lambda model: 0.0} if change is pruning_curve else {}
        target: Any = [0.5] if change is pruning_curve else 0.5
        with pytest.raises(TypeError, match=r"14 layers of Bert.* are quantised"):
            change(model, target, **given)
    before = outputs(model)
    assert_close(outputs(unpatch_model(model)), before)


@pytest.mark.parametrize(
    "change", [patch_model, lambda m: prune_model(m, 0.5, level="unit"), compact_model]
)
def test_a_model_that_torchao_quantised_is_refused(change):
    with pytest.raises(TypeError, match=r"14 layers of Bert.* are quantised"):
        change(quantised(tiny_model("bert")))


def with_even_widths() -> Any:
    """Return a model whose pruned widths a stock config can express."""
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit", attention_level="none")
    return model


def test_the_stock_form_loads_quantised(tmp_path: Path):
    library = friend("torchao.quantization")
    model = with_even_widths()
    export = export_model(model, tmp_path / "stock", form="stock")
    assert export.form == "stock"
    config = TorchAoConfig(library.Int8WeightOnlyConfig())
    load = AutoModelForSequenceClassification.from_pretrained
    again: Any = load(tmp_path / "stock", quantization_config=config)
    layer = again.bert.encoder.layer[0].intermediate.dense
    assert type(layer.weight).__name__ == "Int8Tensor"
    assert layer.weight.shape == (32, 32)
    assert_close_to(outputs(again), outputs(model))


def test_a_compact_checkpoint_is_quantised_after_loading(tmp_path: Path):
    library = friend("torchao.quantization")
    compact_model(model := with_even_widths(), multiple_of=1)
    model.save_pretrained(tmp_path)
    load = AutoModelForSequenceClassification.from_pretrained
    with pytest.raises(ValueError, match="quantized with CompactConfig"):
        load(tmp_path, quantization_config=TorchAoConfig(library.Int8WeightOnlyConfig()))
    again = load(tmp_path)
    assert_close_to(outputs(quantised(again)), outputs(model))
