"""The table of families: descriptions of blocks that neither structure nor probe finds.

The table starts empty. A user adds a family by `register_family`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from hf_td.anatomy.blocks import Block, Projection, Role
from hf_td.anatomy.probe import agrees
from hf_td.anatomy.towers import Traces, join
from hf_td.anatomy.trace import Call
from hf_td.modules.layouts import in_features, linear_layout, out_features

UNPROVEN = "no forward of it could be run, so its units are not proven"


@dataclass(frozen=True, kw_only=True)
class AttentionBlocks:
    """A description of attention blocks; each projection is a linear layer of its own.

    Attributes:
        path: dotted path of the blocks within the base model, `*` for the number of a layer.
        q: name of the query projection within the block.
        k: name of the key projection.
        v: name of the value projection.
        o: name of the output projection.
        heads: number of query heads, or the name of the config's field with it.
        kv_heads: number of key and value heads, or the name of a field; None if equal to `heads`.
        obstacle: reason why only weights can be dropped, not heads; None if heads can.
    """

    path: str
    q: str
    k: str
    v: str
    o: str
    heads: int | str
    kv_heads: int | str | None = None
    obstacle: str | None = None

    def block(self, model: Any, name: str) -> Block:
        """Return the described block of this name in a model."""
        heads = _count(model, self.heads)
        units = heads if self.kv_heads is None else _count(model, self.kv_heads)
        names: dict[Role, str] = {"q": self.q, "k": self.k, "v": self.v, "o": self.o}
        return _block(model, name, "attention", units, names, self.obstacle)


@dataclass(frozen=True, kw_only=True)
class FeedForwardBlocks:
    """A description of feed-forward blocks; each projection is a linear layer of its own.

    Attributes:
        path: dotted path of the blocks within the base model, `*` for the number of a layer.
        up: name of the projection to the neurons within the block.
        down: name of the projection from the neurons.
        gate: name of the projection that gates the neurons, or None.
        obstacle: reason why only weights can be dropped, not neurons; None if neurons can.
    """

    path: str
    up: str
    down: str
    gate: str | None = None
    obstacle: str | None = None

    def block(self, model: Any, name: str) -> Block:
        """Return the described block of this name in a model."""
        units = out_features(_layer(model, join(name, self.up)))
        names: dict[Role, str] = {"up": self.up, "down": self.down}
        if self.gate is not None:
            names = {"gate": self.gate, **names}
        return _block(model, name, "feed_forward", units, names, self.obstacle)


Description = AttentionBlocks | FeedForwardBlocks

# By model type or class of the base model. A family whose blocks are not found is a new row.
_FAMILIES: dict[str | type[nn.Module], tuple[Description, ...]] = {}


def register_family(family: str | type[nn.Module], *blocks: Description) -> None:
    """Describe the blocks of a family; a later call replaces an earlier one.

    A description takes precedence over what the reader finds, and is proven on the model all the
    same. `read_anatomy` refuses a model whose units have other features or whose layer is never
    called. If no forward can be run, only the weights can be targeted.

    Args:
        family: a model type (`config.model_type`), or the class of a base model.
        *blocks: descriptions; no description removes the family.
    """
    if blocks:
        _FAMILIES[family] = blocks
    else:
        _FAMILIES.pop(family, None)


def described(base: nn.Module) -> tuple[Description, ...]:
    """Return the descriptions of a base model, by its class or else by its model type."""
    model_type = getattr(getattr(base, "config", None), "model_type", None)
    for family, blocks in _FAMILIES.items():
        if isinstance(family, type) and isinstance(base, family):
            return blocks
    return _FAMILIES.get(model_type, ()) if model_type else ()


def described_blocks(base: nn.Module, traces: Traces) -> list[Block]:
    """Return the described blocks of a base model, proven on its traces.

    Raises:
        ValueError: a description matches no module, or the model contradicts it.
    """
    calls = {join(path, c.name): c for path, seen in traces.seen.items() for c in seen.calls}
    return [
        _proven(block, calls)
        for description in described(base)
        for block in _matches(base, description)
    ]


def _matches(base: nn.Module, description: Description) -> Iterator[Block]:
    depth = description.path.count(".")
    found = [
        name
        for name, _ in base.named_modules()
        if name.count(".") == depth and fnmatchcase(name, description.path)
    ]
    if not found:
        raise ValueError(
            f"{type(base).__name__} has no module {description.path!r}. The path of a description "
            "is a dotted path within the base model. Correct it in register_family."
        )
    for name in found:
        yield description.block(base, name)


def _proven(block: Block, calls: Mapping[str, Call]) -> Block:
    if not calls:
        return replace(block, obstacle=block.obstacle or UNPROVEN)
    for name in block.modules:
        if name not in calls:
            raise ValueError(
                f"{name}, described as a part of {block.name}, is never called. Every projection "
                "has to be called in a forward. Correct its name in register_family."
            )
    feeders = [calls[p.module] for p in block.producers]
    if not agrees(block, calls[block.consumer.module], feeders):
        raise ValueError(
            f"the description of {block.name} is contradicted by the model: the {block.units} "
            f"units that {block.consumer.module} reads consist of other features. Correct the "
            "numbers of heads and the names. Or give an obstacle, to target only its weights."
        )
    return block


def _block(
    model: Any, name: str, part: Any, units: int, names: Mapping[Role, str], obstacle: str | None
) -> Block:
    projections = [_projection(model, join(name, n), role, units) for role, n in names.items()]
    producers = tuple(p for p in projections if not p.reads)
    (consumer,) = [p for p in projections if p.reads]
    return Block(name, part, units, producers, consumer, obstacle=obstacle)


def _projection(model: nn.Module, name: str, role: Role, units: int) -> Projection:
    layer = _layer(model, name)
    size = in_features(layer) if role in ("o", "down") else out_features(layer)
    if size % units:
        raise ValueError(
            f"{name} has {size} features, which {units} units cannot share evenly. Correct the "
            "number of heads in register_family."
        )
    return Projection(name, role, torch.arange(size).view(units, -1))


def _layer(model: nn.Module, name: str) -> nn.Module:
    layer = dict(model.named_modules()).get(name)
    if layer is None or linear_layout(layer) is None:
        what = "nothing" if layer is None else type(layer).__name__
        raise ValueError(
            f"expected a linear layer at {name}, found {what}. Correct the name in register_family."
        )
    return layer


def _count(model: Any, count: int | str) -> int:
    if isinstance(count, int):
        return count
    if not hasattr(model.config, count):
        raise ValueError(
            f"{type(model.config).__name__} has no field {count!r}. Give the name of a field or a "
            "number in register_family."
        )
    return getattr(model.config, count)
