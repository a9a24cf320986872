"""Importance of units and experts, computed from the weights of a model.

Training and pruning share these functions, so a network learns to live without exactly the parts
that will be pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_td import functional
from hf_td.anatomy import Block, Layout, Projection, features_on, find_layer, linear_layout
from hf_td.kernels import row_norms
from hf_td.kernels.reductions import any_nonzero

# A linear layer, and the features of it that belong to the units of a block.
Member = tuple[Any, Projection]


def members_of(model: nn.Module, block: Block) -> tuple[Member, ...]:
    """Return the producers of a block, each with its layer."""
    return tuple((find_layer(model, p.module), p) for p in block.producers)


def fan_in_dim(layer: Any) -> int:
    """Return the dimension of a linear layer's weight that runs over its inputs."""
    return _layout(layer).fan_in_dim


def unit_dim(layer: Any) -> int:
    """Return the dimension of a linear layer's weight that runs over its outputs."""
    return _layout(layer).unit_dim


def _layout(layer: Any) -> Layout:
    layout = linear_layout(layer)
    assert layout is not None, f"{type(layer).__name__} is no linear layer"
    return layout


def read_units(layer: Any, consumer: Projection) -> Tensor:
    """Return True for each unit that a consumer reads, boolean, `(..., units)`.

    The leading dimension, if any, runs over experts. A consumer reads a unit unless all its weights
    for the unit are zero.
    """
    read = any_nonzero(_weight(layer), unit_dim(layer))
    return read[..., features_on(consumer, read.device)].any(-1)


def unit_scores(
    members: Sequence[Member], activation: Tensor | None = None, *, wide: bool = False
) -> Tensor:
    """Return the L2 norm of the weights that produce each head or neuron, `(..., units)`.

    The leading dimension, if any, runs over experts.

    Args:
        members: the producers of the units.
        activation: root mean square of each unit's output, `(units,)`, which scales the norm.
        wide: compute in float64, where no norm of float32 overflows.
    """
    rows = []
    for layer, projection in members:
        weight = _weight(layer, wide=wide)
        features = features_on(projection, weight.device)
        rows.append(row_norms(weight, fan_in_dim(layer))[..., features])
    norms = functional.unit_norms(rows)
    return norms if activation is None else norms * activation


def expert_scores(
    weights: Sequence[Tensor], activation: Tensor | None = None, *, wide: bool = False
) -> Tensor:
    """Return the L2 norm of all weights of each expert, `(experts,)`.

    Args:
        weights: the parameters of the experts, each `(experts, ...)`.
        activation: root mean square of the weight that the router gives each expert, `(experts,)`,
            which scales the norm.
        wide: compute in float64, where no norm of float32 overflows.
    """
    flat = [weight.detach().flatten(1) for weight in weights]
    rows = [row_norms(weight.double() if wide else weight, 1) for weight in flat]
    norms = functional.unit_norms([row[:, None] for row in rows])
    return norms if activation is None else norms * activation


def _weight(layer: Any, *, wide: bool = False) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().double() if wide else weight.detach()
