"""Skips the layers of a stack that are just like others: what they would show is known by then.

The layers of a big model are alike but for their weights, which a reading does not look at. So of
layers that are alike in class, shapes, settings and arguments only the first two and the last are
run, and the others give what the second gave: a model of many layers is read as fast as one of few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.modules.layouts import linear_layers

# Layers that are alike are run so often, and once more for the last.
_RUNS = 2
_LEAST_LINEAR = 3  # what has fewer is no layer, but a part of one
_OWN = {"_modules", "_parameters", "_buffers"}
_PLAIN = (int, float, str, bool, type(None), type, torch.dtype, torch.device, torch.Size)


@contextmanager
def skipping(model: nn.Module, note: Callable[[str, str], None]) -> Iterator[None]:
    """While it is open, a forward of the model skips the layers that are like others.

    Args:
        model: in which layers are looked for.
        note: is told the dotted name of each layer that is skipped, and of the one it is like.
    """
    replaced: list[Any] = []
    try:
        for alike in _stacks(model):
            memory = _Memory(note)
            for place, (name, layer) in enumerate(alike):
                skips = _RUNS <= place < len(alike) - 1
                layer.forward = memory.around(name, layer.forward, skips=skips)
                replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            del layer.__dict__["forward"]


class _Memory:
    """What the layers that are alike gave, by the arguments that they were given."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self._note = note
        self._given: dict[Any, tuple[str, Any]] = {}

    def around(self, name: str, forward: Callable[..., Any], *, skips: bool) -> Callable[..., Any]:
        """A forward that remembers what it gave, or one that gives what another gave."""

        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = repr((_signature(args), _signature(kwargs)))
            if skips and key in self._given:
                like, output = self._given[key]
                self._note(name, like)
                return output
            output = forward(*args, **kwargs)
            self._given[key] = name, output
            return output

        return remembered


def _signature(value: Any) -> Any:
    """What has to agree for two calls to be alike: shapes and settings, not numbers in tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return [(key, _signature(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_signature(item) for item in value]
    return value if isinstance(value, _PLAIN) else type(value)


def _stacks(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Layers of one list that are alike, if there are enough to skip some; outer lists first."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or name.startswith(inside):
            continue
        path = f"{name}." if name else ""
        groups = [group for group in _groups(list(module)) if _can_be_skipped(group)]
        for group in groups:
            yield [(f"{path}{place}", layer) for place, layer in group]
        if groups:
            inside = (*inside, path)


def _can_be_skipped(group: list[tuple[int, nn.Module]]) -> bool:
    return len(group) > _RUNS + 1 and len(linear_layers(group[0][1])) >= _LEAST_LINEAR


def _groups(layers: list[nn.Module]) -> list[list[tuple[int, nn.Module]]]:
    """Layers that are alike, with their places in the list."""
    groups: list[list[tuple[int, nn.Module]]] = []
    parts = [list(layer.named_modules()) for layer in layers]

    def are_alike(one: int, other: int) -> bool:
        """Whether two layers differ in nothing but their weights and their place in the list."""
        return len(parts[one]) == len(parts[other]) and all(
            name == like and _is_like(module, twin, (one, other))
            for (name, module), (like, twin) in zip(parts[one], parts[other], strict=True)
        )

    for place, layer in enumerate(layers):
        group = next((group for group in groups if are_alike(group[0][0], place)), None)
        if group is None:
            groups.append([(place, layer)])
        else:
            group.append((place, layer))
    return [group for group in groups if "forward" not in group[0][1].__dict__]


def _is_like(a: nn.Module, b: nn.Module, places: tuple[int, int]) -> bool:
    if a is b:
        return not a._parameters  # a shared layer has one name only
    mine, theirs = vars(a), vars(b)
    return (
        type(a) is type(b)
        and _shapes(a) == _shapes(b)
        and mine.keys() == theirs.keys()
        # Most settings are one object, which is quick to tell: a big model has thousands.
        and all(
            mine[key] is theirs[key] or _same(mine[key], theirs[key], places)
            for key in mine.keys() - _OWN
        )
    )


def _shapes(module: nn.Module) -> list[Any]:
    tensors = {**module._parameters, **module._buffers}
    return [(name, None if t is None else (t.shape, t.dtype)) for name, t in tensors.items()]


def _same(a: Any, b: Any, places: tuple[int, int]) -> bool:
    """Equal settings, or both the number of their layer; what is not plain has to be one object."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        if not a:  # as the hooks of almost all modules are
            return not b
        return a.keys() == b.keys() and all(_same(a[key], b[key], places) for key in a)
    if isinstance(a, _PLAIN):
        return a == b or (type(a) is int and a - places[0] == b - places[1])
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y, places) for x, y in zip(a, b, strict=True))
    return isinstance(a, (set, frozenset)) and a == b
