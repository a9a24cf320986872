"""Reads a model: which linear layers form attention and feed-forward blocks, proven by a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_td.anatomy.blocks import Anatomy, Block, Projection, layer_index, pattern_of
from hf_td.anatomy.experts import prove_experts
from hf_td.anatomy.inputs import probe_inputs
from hf_td.anatomy.layouts import expert_modules, linear_layers, stacks_of
from hf_td.anatomy.probe import prove_block
from hf_td.anatomy.trace import Call, Trace, thawed, trace
from hf_td.config import CONFIG_KEY

# Readings of models seen before, by class and by the shapes of their linear layers.
_READINGS: dict[tuple[Any, ...], Anatomy] = {}
_MOST_READINGS = 64


def read_anatomy(model: nn.Module, example_inputs: Mapping[str, Any] | None = None) -> Anatomy:
    """Find the attention and feed-forward blocks of a model.

    The model is run once on a few tokens, without its matrix products and in eval mode; weights,
    training flags and random states are untouched. Heads and embeddings are not read.

    Args:
        model: a `PreTrainedModel`, or any module together with `example_inputs`.
        example_inputs: keyword arguments for a forward of `model.base_model`, for a model whose
            input is of no known kind.

    Raises:
        ValueError: no example input can be made for this model.
    """
    if not hasattr(model, "config"):
        return _read(model, example_inputs)  # nothing says that two such models are alike
    key = _fingerprint(model)
    if key not in _READINGS:
        if len(_READINGS) >= _MOST_READINGS:
            _READINGS.clear()
        _READINGS[key] = _read(model, example_inputs)
    return _READINGS[key]


def _fingerprint(model: Any) -> tuple[Any, ...]:
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    # How it was patched says nothing of the architecture.
    settings = {k: v for k, v in model.config.to_dict().items() if k != CONFIG_KEY}
    return (type(model), shapes, repr(settings), model.config._attn_implementation)


def _read(model: nn.Module, example_inputs: Mapping[str, Any] | None) -> Anatomy:
    base: nn.Module = getattr(model, "base_model", model)
    prefix = _prefix_of(base, model)
    with torch.inference_mode(False), thawed(base):
        seen = trace(base, example_inputs or probe_inputs(base))
        found = [*_prove_all(seen), *_prove_experts(seen)]
        found.sort(key=lambda block: _last_call(seen, block))
        blocks = [_with_prefix(block, prefix) for block in found]
    claimed = {name for block in blocks for name in block.modules}
    called = {call.name for call in seen.calls}
    return Anatomy(
        blocks=tuple(blocks),
        unclaimed=tuple(n for n in _prunable(model) if n not in claimed),
        uncalled=tuple(prefix + n for n in linear_layers(base) if n not in called),
    )


def _prunable(model: nn.Module) -> list[str]:
    """The names of all linear layers and stacks of experts."""
    experts = expert_modules(model).items()
    stacks = [f"{name}.{stack.name}" for name, module in experts for stack in stacks_of(module)]
    return [*linear_layers(model), *stacks]


def _prove_experts(seen: Trace) -> list[Block]:
    """The block of every module of experts; the same place in another layer is proven once."""
    proven: dict[tuple[Any, ...], Block | None] = {}
    blocks = []
    for call in seen.experts:
        stacks = stacks_of(call.module)
        key = (pattern_of(call.name), *(tuple(stack.weight.shape) for stack in stacks))
        if key not in proven:
            proven[key] = prove_experts(call.name, call.module, call.hidden_size)
        like = proven[key]
        if like is not None and layer_index(call.name) is not None:
            blocks.append(_moved(like, [f"{call.name}.{stack.name}" for stack in stacks]))
    return blocks


def _last_call(seen: Trace, block: Block) -> int:
    """When the block was over: at the call of its consumer."""
    return seen.order.get(block.consumer.module, seen.order.get(block.name, -1))


def _prove_all(seen: Trace) -> list[Block]:
    """Every block of the model; the same place in another layer is proven once."""
    proven: dict[tuple[Any, ...], Block | None] = {}
    found: dict[Call, tuple[list[Call], Block]] = {}
    for call in seen.calls:
        sources = seen.feeders(call)
        if not sources:
            continue
        key = tuple((pattern_of(c.name), c.leaf.shape[-1]) for c in (call, *sources))
        if key not in proven:
            proven[key] = prove_block(call, sources, partial(seen.given_to, call))
        like = proven[key]
        if like is not None:
            names = [source.name for source in (call, *sources)]
            if like.companions:
                names += [given.name for given in seen.given_to(call)]
            found[call] = sources, _moved(like, names)
    return _in_layers(seen, found)


def _in_layers(seen: Trace, found: dict[Call, tuple[list[Call], Block]]) -> list[Block]:
    """Keep what lies inside one layer, and note the units that something else reads as well."""
    inside = {c: v for c, v in found.items() if layer_index(v[1].name) is not None}
    readers = Counter(source for sources, _ in inside.values() for source in sources)
    shared = seen.feeders_outside(inside) | {c for c, times in readers.items() if times > 1}
    return [
        replace(block, obstacle=block.obstacle or _obstacle(shared.intersection(sources)))
        for sources, block in inside.values()
    ]


def _obstacle(shared: set[Call]) -> str | None:
    names = ", ".join(sorted(call.name for call in shared))
    return f"the output of {names} is also read elsewhere in the model" if shared else None


def _moved(like: Block, names: list[str]) -> Block:
    """The same block in the layer that has these names."""
    by_pattern = {pattern_of(name): name for name in names}
    depth = len(like.name.split("."))
    path = ".".join(names[0].split(".")[:depth])
    return _rename(like, path, lambda name: by_pattern[pattern_of(name)])


def _rename(block: Block, path: str, rename: Callable[[str], str]) -> Block:
    def move(projection: Projection) -> Projection:
        return replace(projection, module=rename(projection.module))

    return replace(
        block,
        name=path,
        producers=tuple(move(p) for p in block.producers),
        consumer=move(block.consumer),
        companions=tuple(replace(c, parameter=rename(c.parameter)) for c in block.companions),
    )


def _prefix_of(base: nn.Module, model: nn.Module) -> str:
    name = next(name for name, module in model.named_modules() if module is base)
    return f"{name}." if name else ""


def _with_prefix(block: Block, prefix: str) -> Block:
    return _rename(block, prefix + block.name, lambda name: prefix + name)
