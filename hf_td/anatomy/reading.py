"""Reads a model: which linear layers form attention and feed-forward blocks, proven by a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_td.anatomy.blocks import Anatomy, Block, Projection, layer_index, pattern_of
from hf_td.anatomy.experts import prove_experts
from hf_td.anatomy.mixtures import read_mixtures
from hf_td.anatomy.probe import prove_block
from hf_td.anatomy.registry import described, described_blocks
from hf_td.anatomy.replaced import (
    check_called,
    check_has_values,
    check_not_packed,
    replaced_forwards,
)
from hf_td.anatomy.towers import Traces, join, trace_all
from hf_td.anatomy.trace import Call, Trace, is_in, moved, thawed
from hf_td.config import CONFIG_KEY
from hf_td.modules.layouts import expert_modules, linear_layers, stacks_of

# Readings of models seen before, by class and by the shapes of their linear layers.
_READINGS: dict[tuple[Any, ...], Anatomy] = {}
_MOST_READINGS = 64


def read_anatomy(model: nn.Module, example_inputs: Mapping[str, Any] | None = None) -> Anatomy:
    """Find the attention and feed-forward blocks of a model, and its mixtures of experts.

    The model is run once on a few tokens, without its matrix products and in eval mode; weights,
    training flags and random states are untouched. Heads and embeddings are not read.

    A model that structure and probe cannot tell can be described by `register_family`.

    Args:
        model: a `PreTrainedModel`, or any module together with `example_inputs`.
        example_inputs: keyword arguments for a forward of `model.base_model`, for a model whose
            input is of no known kind.

    Raises:
        ValueError: no example input can be made for this model, or it contradicts what was
            registered for it; or its weights have no values.
        TypeError: its layers are quantised, or a kernel computes without calling them.
    """
    check_not_packed(model)
    check_has_values(model)
    if not hasattr(model, "config"):
        return _read(model, example_inputs)  # nothing says that two such models are alike
    key = (*_fingerprint(model), _told(example_inputs))
    if key not in _READINGS:
        if len(_READINGS) >= _MOST_READINGS:
            _READINGS.clear()
        _READINGS[key] = _read(model, example_inputs)
    return _READINGS[key]


def _told(example_inputs: Mapping[str, Any] | None) -> str | None:
    """What a forward was given: with other inputs other parts of a model may run."""
    if example_inputs is None:
        return None
    return repr([(name, getattr(v, "shape", type(v))) for name, v in example_inputs.items()])


def _fingerprint(model: Any) -> tuple[Any, ...]:
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    # How it was patched says nothing of the architecture.
    settings = {k: v for k, v in model.config.to_dict().items() if k != CONFIG_KEY}
    told = described(getattr(model, "base_model", model))
    replaced = tuple(replaced_forwards(model).items())
    attention = model.config._attn_implementation
    return (type(model), shapes, repr(settings), attention, told, replaced)


def _read(model: nn.Module, example_inputs: Mapping[str, Any] | None) -> Anatomy:
    with torch.inference_mode(False), thawed(model):
        base, traces = _trace(model, example_inputs)
        prefix = _name_of(base, model)
        found = _found(traces)
        if _reach_into_stacks(found, traces):
            base, traces = _trace(model, example_inputs, whole=True)
            found = _found(traces)
        told = described_blocks(base, traces)
        blocks = [_with_prefix(b, prefix) for b in _in_order(told, found, traces)]
        experts = [
            join(prefix, join(path, call.name))
            for path, seen in traces.seen.items()
            for call in seen.experts
        ]
        mixtures = read_mixtures(model, experts)
    claimed = {name for block in blocks for name in block.modules}
    called = set(traces.called)
    uncalled = [join(prefix, n) for n in linear_layers(base) if n not in called]
    check_called(model, uncalled)
    return Anatomy(
        blocks=tuple(blocks),
        mixtures=tuple(mixtures),
        unclaimed=tuple(n for n in _prunable(model) if n not in claimed),
        uncalled=tuple(uncalled),
        runs=tuple(join(prefix, path) if path else "" for path in traces.seen),
        unread=tuple(f"{join(prefix, p) or 'model'}: {why}" for p, why in traces.unread.items()),
    )


def _found(traces: Traces) -> list[Block]:
    return [
        _with_prefix(block, path)
        for path, seen in traces.seen.items()
        for block in _blocks_of(seen)
    ]


def _reach_into_stacks(blocks: list[Block], traces: Traces) -> bool:
    """Whether a block is made of several layers of which some were skipped."""
    stacks = {
        join(path, like).rpartition(".")[0]
        for path, seen in traces.seen.items()
        for like in seen.skipped.values()
    }
    return any(
        len({_place_in(stack, name) for name in block.modules}) > 1
        for block in blocks
        for stack in stacks
    )


def _place_in(stack: str, name: str) -> str | None:
    """In which layer of a stack a module is."""
    if not is_in(name, stack):
        return None
    return name.removeprefix(stack).removeprefix(".").partition(".")[0]


def _trace(
    model: nn.Module, example_inputs: Mapping[str, Any] | None, *, whole: bool = False
) -> tuple[nn.Module, Traces]:
    """What was run and what it showed: the base model, or the whole where the base does not run.

    Some models call a part their base that takes no input of the user: DINOv3's encoder.
    """
    base: nn.Module = getattr(model, "base_model", model)
    try:
        return base, trace_all(base, example_inputs, whole=whole or bool(described(base)))
    except ValueError as error:
        if described(base):
            return base, Traces(unread={"": str(error)})
        if base is model or example_inputs is not None:
            raise
        with suppress(ValueError):
            return model, trace_all(model, whole=whole)
        raise


def _in_order(told: list[Block], found: list[Block], traces: Traces) -> list[Block]:
    """What was described and what else was found, as the model runs it."""
    if not told:
        return found
    taken = {name for block in told for name in block.modules}
    blocks = [*told, *(block for block in found if not taken.intersection(block.modules))]
    order = {name: i for i, name in enumerate(traces.called)}
    return sorted(blocks, key=lambda block: order.get(block.consumer.module, 0))


def _prunable(model: nn.Module) -> list[str]:
    """The names of all linear layers and stacks of experts."""
    experts = expert_modules(model).items()
    stacks = [f"{name}.{stack.name}" for name, module in experts for stack in stacks_of(module)]
    return [*linear_layers(model), *stacks]


def _blocks_of(seen: Trace) -> list[Block]:
    """Every block that a forward showed, in the order in which they were over."""
    found = [*_prove_all(seen), *_prove_experts(seen)]
    blocks = [(_last_call(seen, block), block) for block in found]
    for path, like in seen.skipped.items():
        alike = [block for block in found if is_in(block.name, like)]
        blocks += [
            ((seen.order[path], *_last_call(seen, block)), _in_layer(block, like, path))
            for block in alike
        ]
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


def _in_layer(block: Block, like: str, path: str) -> Block:
    """The same block in a layer that was skipped."""
    obstacle = block.obstacle and block.obstacle.replace(f"{like}.", f"{path}.")
    return replace(
        _rename(
            block,
            moved(block.name, like, path),
            lambda name: moved(name, like, path) if is_in(name, like) else name,
        ),
        obstacle=obstacle,
    )


def _prove_experts(seen: Trace) -> list[Block]:
    """The block of every module of experts; the same place in another layer is proven once."""
    proven: dict[tuple[Any, ...], tuple[list[str], Block | None]] = {}
    blocks = []
    for call in seen.experts:
        stacks = stacks_of(call.module)
        key = (pattern_of(call.name), *(tuple(stack.weight.shape) for stack in stacks))
        names = [f"{call.name}.{stack.name}" for stack in stacks]
        if key not in proven:
            proven[key] = names, prove_experts(call.name, call.module, call.hidden_size)
        first, like = proven[key]
        if like is not None and layer_index(call.name) is not None:
            blocks.append(_moved(like, dict(zip(first, names, strict=True)), []))
    return blocks


def _last_call(seen: Trace, block: Block) -> tuple[int, ...]:
    """When the block was over: at the call of its consumer."""
    return (seen.order.get(block.consumer.module, seen.order.get(block.name, -1)),)


def _prove_all(seen: Trace) -> list[Block]:
    """Every block of the model; the same place in another layer is proven once."""
    proven: dict[tuple[Any, ...], tuple[list[str], Block | None]] = {}
    mixed: set[int] = set()  # inputs that cannot be split; q, k and v read one and the same
    found: dict[Call, tuple[list[Call], Block]] = {}
    for call in seen.calls:
        sources = seen.feeders(call)
        if not sources:
            continue
        key = tuple((pattern_of(c.name), c.leaf.shape[-1]) for c in (call, *sources))
        names = [source.name for source in (call, *sources)]
        if key not in proven and id(call.input) in mixed:
            proven[key] = names, None
        elif key not in proven:
            proven[key] = names, prove_block(call, sources, partial(seen.given_to, call))
            if proven[key][1] is None:
                mixed.add(id(call.input))
        first, like = proven[key]
        if like is not None:
            given = [g.name for g in seen.given_to(call)] if like.companions else []
            found[call] = sources, _moved(like, dict(zip(first, names, strict=True)), given)
    return _in_layers(seen, found)


def _in_layers(seen: Trace, found: dict[Call, tuple[list[Call], Block]]) -> list[Block]:
    """Keep what lies inside one layer, and note the units that something else reads as well.

    What reads into queries, keys or values is a bottleneck and no feed-forward part.
    """
    heads = {p.module for _, b in found.values() if b.part == "attention" for p in b.producers}
    inside = {
        call: (sources, block)
        for call, (sources, block) in found.items()
        if layer_index(block.name) is not None
        and not (block.part == "feed_forward" and block.consumer.module in heads)
    }
    readers = Counter(source for sources, _ in inside.values() for source in sources)
    shared = seen.feeders_outside(inside) | {c for c, times in readers.items() if times > 1}
    return [
        replace(block, obstacle=block.obstacle or _obstacle(shared.intersection(sources)))
        for sources, block in inside.values()
    ]


def _obstacle(shared: set[Call]) -> str | None:
    names = ", ".join(sorted(call.name for call in shared))
    return f"the output of {names} is also read elsewhere in the model" if shared else None


def _moved(like: Block, layers: dict[str, str], given: list[str]) -> Block:
    """The same block in another layer: its linear layers by name, and what is given to it."""
    by_pattern = {pattern_of(name): name for name in given}
    depth = len(like.name.split("."))
    path = ".".join(layers[like.consumer.module].split(".")[:depth])
    return _rename(like, path, lambda name: layers.get(name) or by_pattern[pattern_of(name)])


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


def _name_of(base: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is base)


def _with_prefix(block: Block, path: str) -> Block:
    if not path:
        return block
    return _rename(block, join(path, block.name), lambda name: join(path, name))
