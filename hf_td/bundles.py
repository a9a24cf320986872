"""Makes the masked weights of many layers at once.

The steps of all but large models are bound on a GPU by how fast Python hands out their work. A node
of the graph for each layer's product would take long beside the layer; one for all layers of a
bundle takes less than the casts of autocast, which it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

from hf_td import kernels
from hf_td.kernels import Drawn

# Of weights. With several bundles, processes that train together exchange the gradients of the
# last layers while those of the first are computed.
_BYTES = 64 << 20
_KEY = "_hf_td_bundle"


class _Made(NamedTuple):
    """A masked weight, and what it was made from."""

    masked: Tensor
    weight: Tensor
    keep: Tensor
    state: tuple[Any, ...]

    def is_of(self, weight: Tensor, keep: Tensor) -> bool:
        """Whether it is that of a weight and a mask, which have not changed since."""
        same = self.weight is weight and self.keep is keep
        return same and self.state == _state(weight)


class Bundle:
    """Layers whose masked weights are made together, when the first is asked for.

    They are there until their gradients have come, or masks are drawn anew.

    Args:
        layers: targeted layers with a 2-D weight and a mask.

    Attributes:
        compute: the type that masked weights were asked for in; None before the first.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = dict.fromkeys(layers)
        self._made: dict[Any, _Made | None] = {}
        self._ready: dict[Any, _Made] = {}
        self.compute: torch.dtype | None = None

    def prepare(self, layer: Any, drawn: Drawn) -> None:
        """Take the masked weight of a layer, if it was made with its mask."""
        if self._ready.pop(layer, None) is not None:
            # That of the update before was not asked for: forwards are compiled.
            self.compute = None
        if drawn.masked is not None:
            weight = layer.weight
            self._ready[layer] = _Made(drawn.masked, weight, drawn.keep, _state(weight))

    def weight_of(self, layer: Any) -> Tensor:
        """The weight that an update uses of one of the layers, in the type it computes in."""
        weight, keep = layer.weight, layer.keep
        if layer not in self._layers:  # a replica of one, on another device
            return kernels.masked(weight, keep)
        compute = kernels.compute_type(weight)
        made = self._made.get(layer)
        if layer not in self._made or (made is not None and made.keep is not keep):
            self._make(compute)
            made = self._made.get(layer)
        if made is None or made.masked.dtype != compute or not made.is_of(weight, keep):
            return kernels.masked(weight, keep)
        return made.masked

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _make(self, compute: torch.dtype) -> None:
        self.compute = compute
        layers = _of_one_device(self._layers)
        weights, keeps = [one.weight for one in layers], [one.keep for one in layers]
        ready = [self._ready_of(one) for one in layers]
        self.release()
        self._made = dict.fromkeys(self._layers)
        if not layers:
            return
        masked = kernels.masked_together(weights, keeps, ready, compute, _release_of(self))
        for layer, weight, keep, own in zip(layers, weights, keeps, masked, strict=True):
            self._made[layer] = _Made(own, weight, keep, _state(weight))

    def _ready_of(self, layer: Any) -> Tensor | None:
        ready = self._ready.get(layer)
        if ready is None or ready.masked.dtype != self.compute:
            return None
        return ready.masked if ready.is_of(layer.weight, layer.keep) else None

    def release(self) -> None:
        """Forget the masked weights."""
        self._made, self._ready = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model, which make their own."""
        return {**self.__dict__, "_made": {}, "_ready": {}}


def _release_of(bundle: Bundle) -> Callable[[], None]:
    """Releases a bundle that is still there; the graph does not keep it."""
    known = ref(bundle)

    def release() -> None:
        there = known()
        if there is not None:
            there.release()

    return release


def _of_one_device(layers: Iterable[Any]) -> list[Any]:
    """Those layers whose weights are whole (no shards) and lie beside the first one's."""
    whole = [layer for layer in layers if type(layer.weight) is nn.Parameter]
    return [layer for layer in whole if layer.weight.device == whole[0].weight.device]


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
    return getattr(layer, "__dict__", {}).get(_KEY)
