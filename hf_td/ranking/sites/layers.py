"""Sites of whole layers, ranked inside each stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_td import functional, kernels
from hf_td.anatomy import LayerStack, linear_layers, stacks_of
from hf_td.functional import Rule
from hf_td.modules.layouts import expert_modules
from hf_td.modules.passing import LayerList, is_passed, mark_passed
from hf_td.ranking import importance
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites.site import Cost, Kind
from hf_td.ranking.sites.slices import Slice, clear


@dataclass(frozen=True, eq=False)
class LayerSite:
    """The layers of a stack. A dropped layer outputs the hidden states of its input.

    Attributes:
        name: dotted name of the stack.
        layer: the stack.
        index: the number of the site in its model, which keys its draws.
        members: the linear layers inside each layer of the stack.
        fixed: indices of layers that are never candidates.
        activations: have the scores; None for norms of weights.
        given: scores from elsewhere, in place of those computed from the weights.
        random_key: of fixed random scores, in place of those computed from the weights.
    """

    kind: ClassVar[Kind] = "layer"

    name: str
    layer: LayerList
    index: int
    members: tuple[tuple[Any, ...], ...]
    fixed: tuple[int, ...] = ()
    activations: Activations | None = None
    given: Tensor | None = None
    random_key: int | None = None

    @property
    def dim(self) -> int:
        """The dimension of `scores` along which candidates are ranked."""
        return 0

    @property
    def size(self) -> int:
        """The number of weights that the mask covers: those of all linear layers."""
        return sum(layer.weight.numel() for layer in self.producers)

    @property
    def most(self) -> float:
        """The largest fraction that can be given; `eligible` keeps one layer at least."""
        return 1.0

    def eligible(self, scores: Tensor) -> Tensor:
        """Return the scores with infinity at layers that have to stay, one at least."""
        stay = torch.tensor(self.fixed, device=scores.device) if self.fixed else scores.argmax()
        return scores.index_fill(0, stay, torch.inf)

    @property
    def rule(self) -> Rule:
        """The rule of the stack's cut-offs: one for each layer."""
        return Rule(0)

    @property
    def ranked_shape(self) -> tuple[int, ...]:
        """The shape of the scores: `(layers,)`."""
        return (len(self.members),)

    def scores(self, *, wide: bool = False) -> Tensor:
        """Return the importance of each layer, `(layers,)`; minus infinity if it is passed by.

        It is the root of how much the layer changes what flows through it: of one minus the cosine
        between the hidden states of its input and output, averaged over tokens. Without activations
        it is the L2 norm of its weights.
        """
        if self.given is not None:
            scores = self.given
        elif self.random_key is not None:
            scores = functional.random_scores(self.ranked_shape, self.random_key, self._device)
        else:
            measured = self.scale()
            scores = self._norms(wide) if measured is None else measured
        passed = torch.tensor([is_passed(one) for one in self.layer.module], device=scores.device)
        return scores.masked_fill(passed, -torch.inf)

    def _norms(self, wide: bool) -> Tensor:
        squares = [
            sum(_row_norms(layer, wide).square().sum() for layer in layers)
            for layers in self.members
        ]
        return torch.stack([torch.as_tensor(one) for one in squares]).sqrt()

    @property
    def _device(self) -> torch.device:
        return self.layer.weight.device

    def scale(self) -> Tensor | None:
        """Return the root of the measured change by each layer, `(layers,)`."""
        if self.activations is None:
            return None
        scale = self.activations.scale(self.name, len(self.members))
        return None if scale is None else scale.to(self._device)

    def to_weight(self, mask: Tensor) -> Tensor:
        """Return the mask: the cut-offs of a stack have the shape `(layers,)`."""
        return mask

    def parameters(self) -> Iterator[Tensor]:
        """Yield the tensors that `remove` writes to."""
        for layer in self.producers:
            yield from (tensor.data for tensor in _tensors(layer))

    def slices(self, chosen: Tensor) -> Iterator[Slice]:
        """Yield the weights and biases in the chosen layers."""
        for index in chosen.nonzero().flatten().tolist():
            for layer in self.members[index]:
                for tensor in _tensors(layer):
                    yield tensor, torch.ones_like(tensor, dtype=torch.bool)

    def remove(self, chosen: Tensor) -> None:
        """Set the linear layers of the chosen layers to zero, and pass the chosen layers by."""
        clear(self.slices(chosen))
        for index in chosen.nonzero().flatten().tolist():
            mark_passed(self.layer.module[index])

    def mark_removed(self) -> None:
        """Compute again with the layers that have weights."""
        for layer, members in zip(self.layer.module, self.members, strict=True):
            if is_passed(layer) and any(bool(one.weight.any()) for one in members):
                mark_passed(layer, False)

    @property
    def producers(self) -> tuple[Any, ...]:
        """The linear layers inside all layers of the stack."""
        return tuple(layer for layers in self.members for layer in layers)

    @property
    def weights_per_entry(self) -> int:
        """The mean number of weights of a layer."""
        return self.size // len(self.members)

    def sum_to_entries(self, values: Tensor) -> Tensor:
        """Raise TypeError: a layer computes with other weights than the stack's."""
        raise TypeError(f"{self.name} ranks layers. They have many weights each.")

    def cost(self, length: int) -> Cost:
        """Return the mean cost of a layer; its attention is not counted."""
        parameters = sum(p.numel() for p in self.parameters()) / len(self.members)
        return Cost(parameters=parameters, flops=2 * parameters)

    def contains(self, name: str) -> bool:
        """Return True for the name of a layer inside the stack."""
        return name.startswith(f"{self.name}.")


def layer_site(
    model: nn.Module,
    stack: LayerStack,
    index: int,
    *,
    kept: Iterable[int] = (),
    activations: Activations | None = None,
    random_key: int | None = None,
) -> LayerSite:
    """Return the site of a stack.

    Args:
        model: the model.
        stack: its reading.
        index: the number of the site.
        kept: layers that are never candidates, beside those that have to stay.
        activations: see `LayerSite`.
        random_key: see `LayerSite`.
    """
    layers: Any = model.get_submodule(stack.name)
    fixed = tuple(sorted({*stack.fixed, *kept}))
    members = tuple(_linear_layers(layer) for layer in layers)
    return LayerSite(
        stack.name,
        LayerList(layers),
        index,
        members,
        fixed,
        activations,
        random_key=random_key,
    )


def _linear_layers(layer: nn.Module) -> tuple[Any, ...]:
    experts = [stack for module in expert_modules(layer).values() for stack in stacks_of(module)]
    return (*linear_layers(layer).values(), *experts)


def _tensors(layer: Any) -> list[Tensor]:
    bias = getattr(layer, "bias", None)
    return [layer.weight] if bias is None else [layer.weight, bias]


def _row_norms(layer: Any, wide: bool) -> Tensor:
    weight = layer.weight.detach()
    return kernels.row_norms(weight.double() if wide else weight, importance.fan_in_dim(layer))
