"""The targeted layers, against their stock classes and a slow loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from hf_td.functional import DRAW_LEVELS, Rule, cutoffs
from hf_td.modules.layouts import linear_layout
from hf_td.patching.layers import (
    TARGETED,
    TargetedConv1D,
    TargetedLinear,
    check_targetable,
    is_targeted,
    kept,
    restore,
    target,
)

FAN_IN, UNITS = 6, 5
Maker = Callable[[], nn.Module]
MAKERS: dict[str, Maker] = {
    "linear": lambda: nn.Linear(FAN_IN, UNITS),
    "linear_without_bias": lambda: nn.Linear(FAN_IN, UNITS, bias=False),
    "conv1d": lambda: Conv1D(UNITS, FAN_IN),
}
every_layer = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)


def stock_layer(maker: Maker) -> Any:
    torch.manual_seed(0)
    layer: Any = maker()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def some_input(*shape: int, dtype: torch.dtype = torch.float) -> Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.randn(*shape, FAN_IN, generator=draws).to(dtype)


def aim(layer: Any, cutoff: Tensor | None = None) -> Any:
    """Target a layer with an update that drops half of the weights of each unit."""
    rule = Rule(fan_in_dim(layer))
    if cutoff is None:
        cutoff = cutoffs(layer.weight.detach().abs(), 0.5, rule.fan_in_dim)
    target(layer, rule, cutoff, scaled=False, measured=False)
    layer.draw = torch.tensor([0, 0, DRAW_LEVELS])
    return layer


def targeted_layer(maker: Maker, cutoff: Tensor | None = None) -> Any:
    return aim(stock_layer(maker), cutoff)


def fan_in_dim(layer: nn.Module) -> int:
    layout = linear_layout(layer)
    assert layout is not None
    return layout.fan_in_dim


def from_input_to_unit(layer: Any, weight: Tensor) -> Tensor:
    """Return the weight of any layout as `(units, fan_in)`."""
    layout = linear_layout(layer)
    assert layout is not None
    return weight.movedim(layout.unit_dim, 0)


@every_layer
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dense", ["cutoff", "draw"])
def test_an_update_that_drops_nothing_changes_no_bit(maker, shape, dtype, dense):
    stock, layer = stock_layer(maker).to(dtype), stock_layer(maker).to(dtype)
    nothing = layer.weight.detach().narrow(fan_in_dim(layer), 0, 1)
    aim(layer, torch.full_like(nothing, torch.inf if dense == "draw" else -torch.inf))
    if dense == "draw":
        layer.draw = torch.tensor([1, 2, 0])
    inputs = [some_input(*shape, dtype=dtype).requires_grad_() for _ in range(2)]
    results = [m.train()(x) for m, x in zip((stock, layer), inputs, strict=True)]
    for result in results:
        result.square().sum().backward()
    assert torch.equal(*results)
    assert torch.equal(stock.weight.grad, layer.weight.grad)
    assert torch.equal(*[x.grad for x in inputs if x.grad is not None])
    assert results[1].dtype == dtype


@every_layer
def test_in_eval_mode_nothing_is_dropped(maker):
    stock, layer = stock_layer(maker), targeted_layer(maker)
    layer.cutoff.fill_(torch.inf)
    layer.eval()
    assert torch.equal(layer(some_input(3)), stock(some_input(3)))


@every_layer
def test_forward_and_gradients_equal_a_slow_loop(maker):
    layer = targeted_layer(maker).train()
    x = some_input(4).requires_grad_()
    upstream = torch.randn(4, UNITS, generator=torch.Generator().manual_seed(3))
    result = layer(x)
    result.backward(upstream)
    weight = from_input_to_unit(layer, layer.weight.detach())
    keep = from_input_to_unit(layer, kept(layer))
    grad = from_input_to_unit(layer, layer.weight.grad)
    assert x.grad is not None
    x_grad, x, result = x.grad, x.detach(), result.detach()
    for unit in range(UNITS):
        for i in range(FAN_IN):
            expected = sum(float(upstream[n, unit] * x[n, i]) for n in range(4))
            assert_close(float(grad[unit, i]), expected * bool(keep[unit, i]), rtol=1e-4, atol=1e-5)
        for n in range(4):
            terms = [float(x[n, i] * weight[unit, i] * keep[unit, i]) for i in range(FAN_IN)]
            bias = 0.0 if layer.bias is None else float(layer.bias.detach()[unit])
            assert_close(float(result[n, unit]), sum(terms) + bias, rtol=1e-4, atol=1e-5)
    assert_close(x_grad, upstream @ (weight * keep))
    assert (grad[~keep] == 0).all()
    if layer.bias is not None:
        assert_close(layer.bias.grad, upstream.sum(0))


@every_layer
def test_dropping_inputs_equals_setting_them_to_zero(maker):
    keep = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    cutoff = torch.where(keep, -torch.inf, torch.inf)
    layer = targeted_layer(maker, cutoff.unsqueeze(1 - fan_in_dim(stock_layer(maker)))).train()
    assert_close(layer(some_input(3)), stock_layer(maker)(some_input(3) * keep))


@every_layer
def test_bfloat16_stays_bfloat16(maker):
    layer = aim(stock_layer(maker).bfloat16())
    result = layer.train()(some_input(3, dtype=torch.bfloat16))
    result.sum().backward()
    assert result.dtype == layer.weight.grad.dtype == torch.bfloat16
    assert (layer.weight.grad[~kept(layer)] == 0).all()


@every_layer
def test_target_changes_the_class_and_restore_undoes_it(maker):
    layer = stock_layer(maker)
    stock = type(layer)
    aim(layer)
    assert type(layer) is TARGETED[stock]
    assert isinstance(layer, stock)
    assert is_targeted(layer)
    restore(layer)
    assert type(layer) is stock
    assert not is_targeted(layer)
    assert not hasattr(layer, "cutoff")
    assert not list(layer.buffers())
    assert torch.equal(layer.train()(some_input(2)), stock_layer(maker)(some_input(2)))


@every_layer
def test_the_module_keeps_its_parameters_flags_and_hooks(maker):
    layer = stock_layer(maker).eval()
    weight, bias, calls = layer.weight, layer.bias, []
    weight.requires_grad_(False)
    layer.register_forward_hook(lambda *_: calls.append(1))
    aim(layer)
    layer(some_input(1))
    assert layer.weight is weight
    assert layer.bias is bias
    assert not layer.weight.requires_grad
    assert not layer.training
    restore(layer)
    layer(some_input(1))
    assert layer.weight is weight
    assert layer.bias is bias
    assert calls == [1, 1]


@every_layer
def test_a_frozen_weight_still_passes_gradients_to_its_input(maker):
    layer = targeted_layer(maker).train().requires_grad_(False)
    x = some_input(2).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    unit_dim = 1 - fan_in_dim(layer)
    assert_close(x.grad, (kept(layer) * layer.weight).sum(unit_dim).expand(2, -1))


@every_layer
def test_the_state_dict_is_that_of_the_stock_layer_and_loads_into_it(maker):
    stock, layer = stock_layer(maker), targeted_layer(maker)
    assert layer.state_dict().keys() == stock.state_dict().keys()
    nn.init.normal_(layer.weight)
    stock.load_state_dict(load(save(layer.state_dict())), strict=True)
    assert torch.equal(stock.weight, layer.weight)
    layer.load_state_dict(stock_layer(maker).state_dict(), strict=True)
    assert torch.equal(layer.weight, stock_layer(maker).weight)


@every_layer
def test_a_deep_copy_shares_nothing(maker):
    layer = targeted_layer(maker)
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)
    assert twin.weight is not layer.weight
    assert torch.equal(twin.train()(some_input(2)), layer.train()(some_input(2)))
    twin.cutoff.fill_(torch.inf)
    assert not kept(twin).any()
    assert kept(layer).any()
    restore(twin)
    assert is_targeted(layer)


@every_layer
def test_the_cut_offs_follow_the_module_to_another_device(maker):
    layer = targeted_layer(maker).to("meta")
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}


@every_layer
def test_the_mask_follows_a_changed_weight(maker):
    layer = targeted_layer(maker).train()
    before = kept(layer)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(fan_in_dim(layer)))
    assert torch.equal(kept(layer), before.flip(fan_in_dim(layer)))
    layer.masked_weight().sum().backward()
    assert torch.equal(layer.weight.grad, kept(layer).float())


@every_layer
def test_a_replica_on_another_device_masks_its_own_weight(maker):
    layer = targeted_layer(maker).train()
    replica = layer._replicate_for_data_parallel()
    replica.weight = (layer.weight * 2).requires_grad_()
    expected = (2 * layer.weight).detach() * (2 * layer.weight.abs() >= layer.cutoff)
    assert torch.equal(replica.masked_weight(), expected)


class OtherLinear(nn.Linear):
    """A linear layer with its own forward, as Falcon's."""

    def forward(self, input):
        assert isinstance(self.weight, Tensor)
        return input @ self.weight.T + self.bias


class QuantizedWeight(nn.Parameter):
    pass


def test_each_stock_class_has_its_own_targeted_class():
    assert TARGETED[nn.Linear] is TargetedLinear
    assert TARGETED[Conv1D] is TargetedConv1D


def test_a_subclass_with_its_own_forward_reads_the_masked_weight():
    stock, layer = (stock_layer(lambda: OtherLinear(FAN_IN, UNITS)) for _ in range(2))
    x = some_input(3)
    mask = kept(aim(layer))
    assert_close(layer.train()(x), x @ (stock.weight * mask).T + stock.bias)
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad != 0, mask & (layer.weight.grad != 0))
    assert "weight" not in layer.__dict__
    assert torch.equal(layer.eval()(x), stock(x))
    restore(layer)
    assert type(layer) is OtherLinear


def quantized_linear() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.__class__ = OtherLinear
    layer.weight = QuantizedWeight(torch.zeros(2, 2))
    return layer


@pytest.mark.parametrize("module", [quantized_linear(), nn.Embedding(2, 2), nn.Bilinear(2, 2, 2)])
def test_other_classes_are_refused_with_their_name(module):
    message = rf"cannot target a\.b: expected a Linear or Conv1D .* got .*{type(module).__name__}"
    with pytest.raises(TypeError, match=message):
        check_targetable("a.b", module)


def test_a_targeted_layer_is_refused():
    with pytest.raises(TypeError, match=r"cannot target a\.b: expected a Linear or Conv1D"):
        check_targetable("a.b", targeted_layer(MAKERS["linear"]))


@every_layer
def test_a_layer_whose_forward_was_replaced_is_refused(maker):
    layer = stock_layer(maker)
    check_targetable("a.b", layer)
    layer.forward = lambda x: x
    with pytest.raises(TypeError, match=r"cannot target a\.b: its forward was replaced"):
        check_targetable("a.b", layer)


@every_layer
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_an_output_can_be_modified_in_place(maker, shape):
    """As `nn.ReLU(inplace=True)` and Swin v2's normalisation do."""
    stock, layer = stock_layer(maker), targeted_layer(maker).train()
    stock.weight.data[~kept(layer)] = 0
    results = []
    for one in (layer, stock):
        inputs = some_input(*shape).requires_grad_()
        output = one(inputs).relu_()
        output.sum().backward()
        results.append((output, one.weight.grad * kept(layer), inputs.grad))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
