"""Prunes the layers of a stack that the caller names."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from hf_td.anatomy import LayerStack

# The layers to prune: indices where the model has one stack, or indices by the name of a stack.
NamedLayers = Iterable[int] | Mapping[str, Iterable[int]]


def as_indices(name: str, indices: Any) -> list[int]:
    """Return the indices of units as a list.

    Raises:
        TypeError: they are no sequence of integers.
    """
    try:
        found = [None if isinstance(i, bool) else operator.index(i) for i in indices]
    except TypeError:
        found = [None]
    if None in found:
        raise TypeError(
            f"the units of {name} are a list of integers such as [0, 2], got {indices!r}"
        )
    return [i for i in found if i is not None]


def named_layers(stacks: Iterable[LayerStack], layers: Any) -> dict[str, list[int]]:
    """Return the indices of the named layers by the name of their stack.

    Args:
        stacks: the stacks of a model.
        layers: see `NamedLayers`. The name of a stack may be shortened to a part of it, such as
            `encoder`, that no other stack has.

    Raises:
        TypeError: indices are no integers.
        ValueError: there is no such stack or layer, the layer has to stay, or no layer would stay.
    """
    stacks = list(stacks)
    if not isinstance(layers, Mapping):
        if len(stacks) != 1:
            raise ValueError(
                f"layers are named by their stack, such as {{'encoder': [1]}}: the model has "
                f"{len(stacks)} stacks, {_names(stacks)}"
            )
        layers = {stacks[0].name: layers}
    found: dict[str, list[int]] = {}
    for name, indices in layers.items():
        stack = _find(stacks, str(name))
        found[stack.name] = checked_layers(stack, indices)
    return found


def checked_layers(stack: LayerStack, indices: Iterable[int]) -> list[int]:
    """Return the indices of layers that can all be taken out of a stack, sorted, each once.

    Raises:
        ValueError: the stack is refused, it has no such layer, a layer has to stay, or no layer
            would stay.
    """
    gone = sorted(set(as_indices(stack.name, indices)))
    if stack.obstacle is not None:
        raise ValueError(f"the layers of {stack.name} cannot be removed: {stack.obstacle}")
    for index in gone:
        if not 0 <= index < stack.units:
            raise ValueError(
                f"{stack.name} has the layers 0 to {stack.units - 1}, so {index} cannot be pruned"
            )
        if index in stack.fixed:
            raise ValueError(
                f"layer {index} of {stack.name} has to stay: without it {stack.fixed[index]}"
            )
    if len(gone) == stack.units:
        raise ValueError(f"{stack.name} has {stack.units} layers, and at least one has to stay")
    return gone


def _find(stacks: list[LayerStack], name: str) -> LayerStack:
    fitting = [stack for stack in stacks if stack.name == name]
    fitting = fitting or [stack for stack in stacks if name in stack.name]
    if len(fitting) != 1:
        raise ValueError(
            f"there is no single stack of layers {name!r}: the model has {_names(stacks)}"
        )
    return fitting[0]


def _names(stacks: list[LayerStack]) -> str:
    return ", ".join(stack.name for stack in stacks) or "none"
