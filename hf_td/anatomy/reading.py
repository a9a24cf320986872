"""Reads a model: finds its attention and feed-forward blocks, and proves them by gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_td.anatomy.blocks import Anatomy, Block, Projection, layer_index, pattern_of
from hf_td.anatomy.experts import prove_experts
from hf_td.anatomy.inputs import check_given, passed_to
from hf_td.anatomy.mixtures import read_mixtures
from hf_td.anatomy.probe import SHARED_HEADS, prove_block
from hf_td.anatomy.registry import described, described_blocks
from hf_td.anatomy.replaced import (
    check_called,
    check_has_values,
    check_not_fully_sharded,
    check_not_quantised,
    replaced_forwards,
)
from hf_td.anatomy.towers import Traces, join, trace_all
from hf_td.anatomy.trace import Call, Trace, thawed
from hf_td.config import CONFIG_KEY
from hf_td.modules.layouts import expert_modules, linear_layers, stacks_of
from hf_td.modules.passing import none_passed

# Readings of this process, by class, config and shapes.
_READINGS: dict[tuple[Any, ...], Anatomy] = {}
_MOST_READINGS = 64


def read_anatomy(model: nn.Module, example_inputs: Mapping[str, Any] | None = None) -> Anatomy:
    """Find the attention and feed-forward blocks of a model, and its mixtures of experts.

    Runs the model once on a few tokens, in eval mode and without its matrix products. Weights,
    training flags and random states are left unchanged. The reading of a model with a config is
    kept, so a second model of equal architecture is not run. Blocks that are not found can be
    described by `register_family`.

    Args:
        model: a `PreTrainedModel`, or any module together with `example_inputs`.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.

    Raises:
        ValueError: no example input runs, the weights have no values, or the model contradicts
            its registered description.
        TypeError: example_inputs are no mapping, layers are quantised, or a kernel computes without
            calling them.
    """
    check_given(example_inputs)
    check_not_fully_sharded(model)
    check_not_quantised(model)
    check_has_values(model)
    if not hasattr(model, "config"):
        return _read(model, example_inputs)  # nothing proves that two such models are equal
    key = fingerprint(model, example_inputs)
    if key not in _READINGS:
        if len(_READINGS) >= _MOST_READINGS:
            _READINGS.clear()
        _READINGS[key] = _read(model, example_inputs)
    return _READINGS[key]


def fingerprint(model: Any, example_inputs: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Return a key that is equal for models with equal readings."""
    settings = model.config.to_dict()
    settings.pop(CONFIG_KEY, None)  # the settings of a patch, no part of the architecture
    inputs = example_inputs and [
        (n, getattr(v, "shape", type(v))) for n, v in example_inputs.items()
    ]
    return (
        type(model),
        tuple((name, tuple(p.shape)) for name, p in model.named_parameters()),
        repr(settings),
        model.config._attn_implementation,
        described(getattr(model, "base_model", model)),
        tuple(replaced_forwards(model).items()),
        repr(inputs),  # other inputs may run other parts of a model
    )


def _read(model: nn.Module, example_inputs: Mapping[str, Any] | None) -> Anatomy:
    with torch.inference_mode(False), thawed(model), none_passed(model):
        base, traces = _trace(model, example_inputs)
        prefix = next(name for name, module in model.named_modules() if module is base)
        blocks = [_with_prefix(block, prefix) for block in _blocks_of(base, traces)]
        mixtures = read_mixtures(
            model,
            [
                join(prefix, join(path, call.name))
                for path, seen in traces.seen.items()
                for call in seen.experts
            ],
        )
    claimed = {name for block in blocks for name in block.modules}
    called = set(traces.called)
    uncalled = [join(prefix, name) for name in linear_layers(base) if name not in called]
    check_called(model, uncalled)
    stacks = [
        f"{name}.{stack.name}"
        for name, module in expert_modules(model).items()
        for stack in stacks_of(module)
    ]
    return Anatomy(
        blocks=tuple(blocks),
        mixtures=tuple(mixtures),
        unclaimed=tuple(n for n in [*linear_layers(model), *stacks] if n not in claimed),
        uncalled=tuple(uncalled),
        runs=tuple(join(prefix, path) if path else "" for path in traces.seen),
        unread=tuple(f"{join(prefix, p) or 'model'}: {why}" for p, why in traces.unread.items()),
    )


def _trace(model: nn.Module, example_inputs: Mapping[str, Any] | None) -> tuple[nn.Module, Traces]:
    """Trace the base model, or the whole model if its base is not run, and return what was run.

    The base of some models takes no input of a user: DINOv3's is its encoder.
    """
    base: nn.Module = getattr(model, "base_model", model)
    if example_inputs is not None:
        passed = passed_to(base, model, example_inputs)
        run = (base, passed) if passed is not None else (model, example_inputs)
        return run[0], trace_all(*run)
    try:
        return base, trace_all(base)
    except ValueError as error:
        if described(base):
            return base, Traces(unread={"": str(error)})
        if base is not model:
            with suppress(ValueError):
                return model, trace_all(model)
        raise


def _blocks_of(base: nn.Module, traces: Traces) -> list[Block]:
    """Return the described blocks and all others that are proven, as the model runs them."""
    blocks = described_blocks(base, traces)
    taken = {name for block in blocks for name in block.modules}
    for path, seen in traces.seen.items():
        found = (_with_prefix(b, path) for b in (*_prove_all(seen), *_prove_experts(seen)))
        blocks += [block for block in found if not taken.intersection(block.modules)]
    order = {name: place for place, name in enumerate(traces.called)}

    def place_of(block: Block) -> int:
        return order.get(block.consumer.module, order.get(block.name, -1))

    return sorted(blocks, key=place_of)


def _prove_experts(seen: Trace) -> list[Block]:
    """Prove the block of every module of experts; a place that recurs in layers only once."""
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
            blocks.append(_moved(like, dict(zip(first, names, strict=True))))
    return blocks


def _prove_all(seen: Trace) -> list[Block]:
    """Prove every block of linear layers; a place that recurs in layers only once."""
    proven: dict[tuple[Any, ...], tuple[list[str], Block | None]] = {}
    found: dict[Call, tuple[list[Call], Block]] = {}
    for call in seen.calls:
        sources = seen.feeders(call)
        if not sources:
            continue
        key = tuple((pattern_of(c.name), c.leaf.shape[-1]) for c in (call, *sources))
        names = [source.name for source in (call, *sources)]
        if key not in proven:
            proven[key] = names, prove_block(call, sources, partial(seen.parameters_feeding, call))
        first, like = proven[key]
        if like is not None:
            own = [p.name for p in seen.parameters_feeding(call)] if like.companions else []
            found[call] = sources, _moved(like, dict(zip(first, names, strict=True)), own)
    return _in_layers(seen, found)


def _in_layers(seen: Trace, found: Mapping[Call, tuple[list[Call], Block]]) -> list[Block]:
    """Keep the blocks of numbered layers, and add an obstacle where anything else reads the units.

    A pair of layers that ends in queries, keys or values is a bottleneck, no feed-forward block.
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
        replace(block, obstacle=_obstacle(block, shared.intersection(sources)))
        for sources, block in inside.values()
    ]


def _obstacle(block: Block, shared: set[Call]) -> str | None:
    """Return the more exact one of the reasons why the units of a block cannot be dropped."""
    if not shared or block.obstacle == SHARED_HEADS:
        return block.obstacle
    names = ", ".join(sorted(call.name for call in shared))
    return f"the output of {names} is also read elsewhere in the model"


def _moved(block: Block, layers: Mapping[str, str], parameters: Sequence[str] = ()) -> Block:
    """Return the block in another layer.

    Args:
        block: the block that was proven.
        layers: the layers of the new block by those of the proven one.
        parameters: parameters outside of linear layers that feed the new consumer.
    """
    by_pattern = {pattern_of(name): name for name in parameters}
    depth = len(block.name.split("."))
    path = ".".join(layers[block.consumer.module].split(".")[:depth])
    return _rename(block, path, lambda name: layers.get(name) or by_pattern[pattern_of(name)])


def _with_prefix(block: Block, path: str) -> Block:
    return _rename(block, join(path, block.name), partial(join, path)) if path else block


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
