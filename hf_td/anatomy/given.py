"""Checks that a reading passed by a caller fits the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_td.anatomy.blocks import Anatomy, Projection
from hf_td.anatomy.finite import check_finite
from hf_td.anatomy.reading import read_anatomy
from hf_td.anatomy.replaced import check_not_fully_sharded, check_not_quantised
from hf_td.modules.layouts import find_layer, linear_layout


def anatomy_of(
    model: nn.Module,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> Anatomy:
    """Return the given anatomy once it is checked, or read the model if none is given.

    Args:
        model: the model that the anatomy is about.
        anatomy: what `read_anatomy` returned for this model; None reads it.
        example_inputs: as for `read_anatomy`.

    Raises:
        ValueError: a weight is not finite; a layer that the anatomy names is missing or too small;
            or as for `read_anatomy`.
        TypeError: as for `read_anatomy`.
    """
    check_finite(model)
    if anatomy is None:
        return read_anatomy(model, example_inputs)
    check_not_fully_sharded(model)
    check_not_quantised(model)
    foreign = foreign_to(model, anatomy)
    if foreign:
        raise ValueError(
            f"the anatomy does not fit {type(model).__name__}: {foreign[0]} is missing or smaller. "
            "The anatomy must be of this model as it is now. Pass read_anatomy(model), or leave "
            "anatomy out"
        )
    return anatomy


def foreign_to(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Return the layers that an anatomy names and a model has not, or has smaller."""
    projections = (p for block in anatomy.blocks for p in block.projections)
    foreign = [p.module for p in projections if not _fits(model, p)]
    modules = dict(model.named_modules(remove_duplicate=False))
    return foreign + [m.router for m in anatomy.mixtures if m.router not in modules]


def _fits(model: nn.Module, projection: Projection) -> bool:
    """Return whether the model has the layer of a projection, with all of its features."""
    try:
        layer = find_layer(model, projection.module)
        # An adapter around the layer has its weight, and is no linear layer.
        fits = linear_layout(layer) is not None
        features = int(projection.features.max())
        return fits and layer.weight.shape[projection.feature_dim(model)] > features
    except AttributeError:  # no such module, or one without a weight
        return False
