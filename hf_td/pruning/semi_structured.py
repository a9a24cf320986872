"""Runs 2:4-pruned models through the semi-structured sparse kernels of PyTorch, on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured
from transformers.pytorch_utils import Conv1D

from hf_td import functional
from hf_td.anatomy import Stack, find_layer, read_anatomy
from hf_td.config import Neighbours, matches
from hf_td.patching.patch import find_patch, unpatch_model
from hf_td.ranking.importance import fan_in_dim

# What the kernels take: two of four neighbours are zero.
PATTERN = Neighbours(lowest=2, of=4)


def to_semi_structured(
    model: nn.Module,
    *,
    exclude: Sequence[str] = (),
    example_inputs: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Make the 2:4-pruned linear layers of a model semi-structured sparse, in place, for inference.

    Layers that are not pruned 2:4 stay dense. The model cannot be trained or saved afterwards:
    export it before, and call this after loading.

    Args:
        model: on a CUDA device that has the kernels (Ampere or later), pruned with
            `pattern="2:4"`; patched models are unpatched.
        exclude: patterns on the dotted names of layers to leave dense.
        example_inputs: as in `patch_model`.

    Returns:
        The dotted names of the layers that are sparse now.

    Raises:
        ValueError: no layer is pruned 2:4, or one that is cannot run through the kernels; each is
            named with the reason, and the model is left as it was.
    """
    names = _pruned_layers(model, exclude, example_inputs)
    if not names:
        raise ValueError(
            f"no layer of {type(model).__name__} is pruned 2:4; prune it first with "
            "prune_model(model, 0.5, level='weight', pattern='2:4')"
        )
    sparse = _convert({name: find_layer(model, name) for name in names})
    if find_patch(model) is not None:
        unpatch_model(model)
    for name, weight in sparse.items():
        find_layer(model, name).weight = nn.Parameter(weight, requires_grad=False)
    return tuple(sparse)


def _pruned_layers(
    model: nn.Module, exclude: Sequence[str], example_inputs: Mapping[str, Any] | None
) -> list[str]:
    blocks = read_anatomy(model, example_inputs).blocks
    names = dict.fromkeys(name for block in blocks for name in block.modules)
    return [n for n in names if not matches(n, tuple(exclude)) and _is_pruned(find_layer(model, n))]


def _is_pruned(layer: Any) -> bool:
    return functional.has_zero_neighbours(layer.weight.detach(), *PATTERN, fan_in_dim(layer))


def _convert(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """The sparse weights of all layers."""
    sparse: dict[str, Tensor] = {}
    refused = []
    for name, layer in layers.items():
        try:
            sparse[name] = _sparse_weight(layer)
        except (ValueError, RuntimeError) as error:
            refused.append(f"{name}: {error}")
    if refused:
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise ValueError(
            "cannot run through the semi-structured kernels (leave layers dense by exclude=...): "
            + "; ".join(refused[:3])
            + more
        )
    return sparse


def _sparse_weight(layer: Any) -> Tensor:
    if isinstance(layer, Stack):
        raise ValueError("experts lie in one 3-D parameter, and the kernels take matrices")
    if isinstance(layer, Conv1D):
        raise ValueError("Conv1D keeps its weight as (in, out), and the kernels take (out, in)")
    if not layer.weight.is_cuda:
        raise ValueError(f"its weight is on {layer.weight.device}, and the kernels are of CUDA")
    return to_sparse_semi_structured(layer.weight.detach().contiguous())  # refuses types and shapes
