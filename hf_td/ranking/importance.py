"""How important weights and units are, read off a model.

One place for training and for pruning, so that the network learns to live without just those
parts that will be taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_td import functional
from hf_td.anatomy import Block, Layout, Projection, features_on, find_layer, linear_layout
from hf_td.kernels.reductions import any_nonzero, row_norms

# A linear layer, and those of its features that belong to the units of a block.
Member = tuple[Any, Projection]


def members_of(model: nn.Module, block: Block) -> tuple[Member, ...]:
    """The producers of a block with their layers."""
    return tuple((find_layer(model, p.module), p) for p in block.producers)


def fan_in_dim(layer: Any) -> int:
    """The dimension of a linear layer's weight that runs over its inputs."""
    return _layout(layer).fan_in_dim


def unit_dim(layer: Any) -> int:
    """The dimension of a linear layer's weight that runs over its outputs."""
    return _layout(layer).unit_dim


def _layout(layer: Any) -> Layout:
    layout = linear_layout(layer)
    assert layout is not None, f"{type(layer).__name__} is no linear layer"
    return layout


def read_units(layer: Any, consumer: Projection) -> Tensor:
    """Boolean `(..., units)`: whether a consumer reads anything of each unit.

    The leading dimension, if any, runs over experts.
    """
    read = any_nonzero(_weight(layer), unit_dim(layer))
    return read[..., features_on(consumer, read.device)].any(-1)


def unit_scores(members: Sequence[Member], activation: Tensor | None = None) -> Tensor:
    """`(..., units)`: L2 norm of the weights that produce each head or neuron.

    The leading dimension, if any, runs over experts.

    Args:
        members: the producers of the units.
        activation: root mean square of what each unit hands on, `(units,)`, to scale with.
    """
    norms = functional.unit_norms(
        [
            row_norms(_weight(layer), fan_in_dim(layer))[..., _index(p, layer)]
            for layer, p in members
        ]
    )
    return norms if activation is None else norms * activation


def expert_scores(weights: Sequence[Tensor], activation: Tensor | None = None) -> Tensor:
    """`(experts,)`: L2 norm of all the weights of each expert.

    Args:
        weights: the parameters of the experts, each `(experts, ...)`.
        activation: root mean square of the weight that the router gives each expert, `(experts,)`,
            to scale with.
    """
    rows = [row_norms(weight.detach().flatten(1), 1) for weight in weights]
    norms = functional.unit_norms([row[:, None] for row in rows])
    return norms if activation is None else norms * activation


def _index(projection: Projection, layer: Any) -> Tensor:
    return features_on(projection, _weight(layer).device)


def _weight(layer: Any) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
