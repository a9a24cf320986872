"""Models that other libraries have changed train, or are refused by name.

None of the libraries is needed: a stand-in does to the model what each library does.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

from hf_td import anneal, compact_model, patch_model, prune_model, read_anatomy
from hf_td.patching.patch import find_patch
from tests.tiny import tiny_inputs, tiny_model

SETTINGS: dict[str, Any] = {"targeting": 0.5, "targeting_schedule": "constant"}
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


# ---- quantised layers --------------------------------------------------------------------------


class Linear4bit(nn.Linear):
    """A layer as in bitsandbytes: a subclass of nn.Linear that keeps two weights in each byte."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        packed = torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ torch.zeros(self.in_features, self.out_features)


class HQQLinear(nn.Module):
    """A layer as in HQQ, GPTQ and AWQ: no nn.Linear, and no parameter called weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("qweight", torch.ones(layer.weight.shape, dtype=torch.int32))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input, self.get_buffer("qweight").to(input.dtype))


def quantised(kind: type[nn.Module]) -> Any:
    model = tiny_model("llama")
    for name, layer in list(model.model.layers.named_modules()):
        if type(layer) is nn.Linear:
            model.model.layers.set_submodule(name, kind(layer))  # pyright: ignore
    return model


@pytest.mark.parametrize("kind", [Linear4bit, HQQLinear])
@pytest.mark.parametrize(
    "change", [patch_model, lambda m: prune_model(m, 0.5, level="unit"), compact_model]
)
def test_packed_weights_are_refused(kind, change):
    message = (
        rf"14 layers of LlamaForCausalLM are quantised, such as model\.layers\.0.*{kind.__name__}"
    )
    with pytest.raises(TypeError, match=message):
        change(quantised(kind))


def test_weights_of_eight_bits_are_refused():
    model: Any = tiny_model("llama")
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(TypeError, match=r"Parameter of torch.float8_e4m3fn, as quantised layers"):
        patch_model(model, level="weight")
    assert find_patch(model) is None


def quantised_by_wrappers(model: Any) -> Any:
    """Wrap the weights of all layers, as torchao does: the layers stay nn.Linear."""
    for layer in model.model.layers.modules():
        if isinstance(layer, nn.Linear):
            wrapped: Any = TwoTensor(layer.weight.data, layer.weight.data)
            layer.weight = nn.Parameter(wrapped, requires_grad=False)
    return model


@pytest.mark.parametrize(
    "change", [patch_model, lambda m: prune_model(m, 0.5, level="unit"), compact_model]
)
def test_wrapped_weights_are_refused(change):
    with pytest.raises(TypeError, match=r"14 layers of LlamaForCausalLM are quantised, such as"):
        change(quantised_by_wrappers(tiny_model("llama")))


@every_level
def test_a_model_that_was_quantised_after_patching_is_refused(level):
    model = quantised_by_wrappers(patch_model(tiny_model("llama"), level=level))
    with pytest.raises(TypeError, match=r"_proj was quantised after patching \(TwoTensor\)"):
        anneal(model, 0.5, 0)
    anatomy = read_anatomy(tiny_model("llama"))
    for given in (None, anatomy):
        with pytest.raises(TypeError, match=r"14 layers of LlamaForCausalLM are quantised"):
            prune_model(model, 0.5, level=level, anatomy=given)


# ---- sharded and dispatched models -------------------------------------------------------------


@pytest.fixture
def one_process(tmp_path):
    """Open a process group of this process alone."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@every_level
def test_tensor_parallel_weights_are_refused(one_process, level):
    model = tiny_model("llama")
    plan = {
        "model.layers.*.mlp.gate_proj": ColwiseParallel(),
        "model.layers.*.mlp.up_proj": ColwiseParallel(),
        "model.layers.*.mlp.down_proj": RowwiseParallel(),
    }
    parallelize_module(model, init_device_mesh("cpu", (1,)), plan)
    with pytest.raises(
        TypeError, match=r"mlp\.\w+_proj\.weight .* is sharded, as by a tensor-parallel plan"
    ):
        patch_model(model, level=level)
    assert find_patch(model) is None


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_dispatched_model_is_refused(place, tmp_path):
    model = tiny_model("llama")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": place}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)  # pyright: ignore
    with pytest.raises(TypeError, match="its forward was replaced on the instance, as device_map"):
        patch_model(model)


@every_level
def test_a_model_that_a_device_map_puts_on_one_device_is_patched(level, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    model: Any = type(tiny_model("llama")).from_pretrained(tmp_path, device_map="cpu")
    assert find_patch(patch_model(model, level=level)) is not None


# ---- replaced forwards -------------------------------------------------------------------------


class SiluMul(torch.autograd.Function):
    """An activation like Liger's fused one: an autograd function of both halves."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        share = torch.sigmoid(gate)
        slope = share * (1 + gate * (1 - share))
        return grads[0] * up * slope, grads[0] * F.silu(gate)


def liger_mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Compute `LigerSwiGLUMLP.forward`, which Liger binds to every feed-forward module."""
    return self.down_proj(SiluMul.apply(self.gate_proj(x), self.up_proj(x)))


def kernel_mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Compute with the weights, as a fused kernel does, and call no layer."""
    gate, up = F.linear(x, self.gate_proj.weight), F.linear(x, self.up_proj.weight)
    return F.linear(F.silu(gate) * up, self.down_proj.weight)


def with_forward(forward: Any) -> Any:
    model: Any = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.forward = MethodType(forward, layer.mlp)
    return model


def trained(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the output and the gradients of one update."""
    anneal(model.train(), 1.0, 0)
    output = model(**tiny_inputs(model))[0]
    output.square().mean().backward()
    return output.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@every_level
@pytest.mark.parametrize("patched_first", [True, False])
def test_fused_activations_between_the_layers_train_the_same_weights(level, patched_first):
    expected = trained(patch_model(tiny_model("llama"), level=level, **SETTINGS))
    model: Any = tiny_model("llama") if patched_first else with_forward(liger_mlp)
    patch_model(model, level=level, **SETTINGS)
    if patched_first:
        for layer in model.model.layers:
            layer.mlp.forward = MethodType(liger_mlp, layer.mlp)
    torch.testing.assert_close(trained(model), expected)


def test_a_kernel_that_calls_no_layer_is_refused():
    patch_model(tiny_model("llama"))  # fills the cache of readings, which must not hide the change
    message = (
        r"mlp was replaced by kernel_mlp, which does not call model\.layers\.0\.mlp\.gate_proj"
    )
    with pytest.raises(TypeError, match=message):
        patch_model(with_forward(kernel_mlp))
