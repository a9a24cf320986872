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
from hf_td.patching.steps import steps_taken

# Of weights. With several bundles, processes that train together exchange the gradients of the
# last layers while those of the first are computed.
_BYTES = 64 << 20
_KEY = "_hf_td_bundle"


class _Made(NamedTuple):
    """A masked weight, and what it was made from."""

    masked: Tensor
    weight: Tensor
    keep: Tensor
    version: int
    place: int
    learns: bool
    steps: int

    @classmethod
    def of(cls, masked: Tensor, weight: Tensor, keep: Tensor) -> _Made:
        """That of a weight and a mask as they are."""
        now = weight._version, weight.data_ptr(), weight.requires_grad, steps_taken()
        return cls(masked, weight, keep, *now)

    def is_current(self, layer: Any) -> bool:
        """Whether the layer's weight and mask have not changed since.

        Asked by every forward of every layer, hence without the slow way to attributes of modules.
        """
        weight = self.weight
        return (
            layer._parameters.get("weight") is weight
            and layer._buffers.get("keep") is self.keep
            and weight._version == self.version
            and weight.data_ptr() == self.place
            and weight.requires_grad == self.learns
            and steps_taken() == self.steps
        )


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
        self._device = ""
        self._autocast: torch.dtype | None = None
        self.compute: torch.dtype | None = None

    def prepare(self, layer: Any, drawn: Drawn) -> None:
        """Take the masked weight of a layer, if it was made with its mask."""
        if self._ready.pop(layer, None) is not None:
            # That of the update before was not asked for: forwards are compiled.
            self.compute = None
        self._made.pop(layer, None)
        if drawn.masked is not None:
            self._ready[layer] = _Made.of(drawn.masked, layer.weight, drawn.keep)

    def weight_of(self, layer: Any) -> Tensor:
        """The weight that an update uses of one of the layers, in the type it computes in."""
        found = self._current(layer)
        if found is None and self._should_make(layer):
            self._make(layer.weight)
            found = self._current(layer)
        return kernels.masked(layer.weight, layer.keep) if found is None else found

    def _current(self, layer: Any) -> Tensor | None:
        """The masked weight of a layer, if it was made from what is there, for what is computed."""
        made = self._made.get(layer)
        if made is None or not made.is_current(layer):
            return None
        return made.masked if self._autocast == kernels.autocast_type(self._device) else None

    def _should_make(self, layer: Any) -> bool:
        """Whether nothing was made yet with the mask of a layer, which may be another's replica."""
        made = self._made.get(layer)
        drawn_anew = layer not in self._made or (made is not None and made.keep is not layer.keep)
        return drawn_anew and layer in self._layers

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _make(self, asked: Tensor) -> None:
        """Make the masked weights of all that are as the one that is asked for."""
        self._device, self.compute = asked.device.type, kernels.compute_type(asked)
        self._autocast = kernels.autocast_type(self._device)
        found = _alike(self._layers, asked)
        ready = [self._ready_of(layer) for layer, _, _ in found]
        self.release()
        self._made = dict.fromkeys(self._layers)
        if not found:
            return
        layers, weights, keeps = zip(*found, strict=True)
        release = _release_of(self)
        masked = kernels.masked_together(weights, keeps, ready, self.compute, release)
        made = map(_Made.of, masked, weights, keeps)
        self._made.update(zip(layers, made, strict=True))

    def _ready_of(self, layer: Any) -> Tensor | None:
        ready = self._ready.get(layer)
        if ready is None or ready.masked.dtype != self.compute:
            return None
        return ready.masked if ready.is_current(layer) else None

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


def _alike(layers: Iterable[Any], asked: Tensor) -> list[tuple[Any, Tensor, Tensor]]:
    """Layers, weights and masks where the weight is whole (no shard) and as the one asked for."""
    found = ((one, one._parameters.get("weight"), one._buffers.get("keep")) for one in layers)
    device, dtype = asked.device, asked.dtype
    return [
        (layer, weight, keep)
        for layer, weight, keep in found
        if type(weight) is nn.Parameter and weight.dtype == dtype and weight.device == device
    ]


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
