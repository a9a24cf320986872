"""Makes the masked weights of many layers at once.

The steps of all but large models are bound on a GPU by how fast Python hands out their work. A node
of the graph for each layer's product would double the time of a step; one for all layers of a
bundle takes less than the casts of autocast, which it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_td import kernels

# Of gradients, as many as processes that train together exchange at once: the first bundles'
# gradients are on their way while those of the others are computed.
_BYTES = 25 << 20
_KEY = "_hf_td_bundle"


class _Made(NamedTuple):
    """A masked weight, and what it was made from."""

    masked: Tensor
    weight: Tensor
    keep: Tensor
    state: tuple[Any, ...]


class Bundle:
    """Layers whose masked weights are made together, when the first is asked for.

    They are there until their gradients have come or masks are drawn anew.

    Args:
        layers: targeted layers with a 2-D weight and a mask.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = tuple(layers)
        self._made: dict[Any, _Made | None] = {}

    def weight_of(self, layer: Any) -> Tensor:
        """The weight that an update uses of one of the layers, in the type it computes in."""
        weight, keep = layer.weight, layer.keep
        made = self._made.get(layer)
        if layer not in self._made or (made is not None and made.keep is not keep):
            self._make(kernels.compute_type(weight))
            made = self._made.get(layer)
        fits = made is not None and made.weight is weight and made.state == _state(weight)
        if made is None or not fits or made.masked.dtype != kernels.compute_type(weight):
            return kernels.masked(weight, keep)
        return made.masked

    @torch.enable_grad()
    def _make(self, dtype: torch.dtype) -> None:
        self.release()
        layers = list(_of_one_device(self._layers))
        weights, keeps = [one.weight for one in layers], [one.keep for one in layers]
        masked = kernels.masked_together(weights, keeps, dtype, self.release)
        self._made = dict.fromkeys(self._layers)
        for layer, weight, keep, own in zip(layers, weights, keeps, masked, strict=True):
            self._made[layer] = _Made(own, weight, keep, _state(weight))

    def release(self) -> None:
        """Forget the masked weights."""
        self._made = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model, which make their own."""
        return {"_layers": self._layers, "_made": {}}


def _of_one_device(layers: Iterable[Any]) -> Iterator[Any]:
    """Those layers whose weights are whole (no shards) and lie beside the first one's."""
    device = None
    for layer in layers:
        weight = layer.weight
        device = weight.device if device is None else device
        if type(weight) is nn.Parameter and weight.device == device:
            yield layer


def _state(weight: Tensor) -> tuple[Any, ...]:
    """What changes when the weight does, or what is asked of it."""
    return weight._version, weight.data_ptr(), weight.requires_grad


def bundle(layers: Iterable[Any]) -> None:
    """Put layers into bundles, in the order in which a model runs them."""
    together: list[Any] = []
    size = 0
    for layer in layers:
        together.append(layer)
        size += layer.weight.numel() * layer.weight.element_size()
        if size >= _BYTES:
            _tie(together)
            together, size = [], 0
    _tie(together)


def _tie(layers: Sequence[Any]) -> None:
    own = Bundle(layers)
    for layer in layers:
        layer.__dict__[_KEY] = own


def untie(layer: Any) -> None:
    """Take a layer out of its bundle; without an error where it is in none."""
    layer.__dict__.pop(_KEY, None)


def bundle_of(layer: Any) -> Bundle | None:
    """The bundle that a layer is in."""
    return layer.__dict__.get(_KEY)
