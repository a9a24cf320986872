"""Finds the stacks of layers of a model, and proves that their layers can be taken out whole.

Structure proposes: a `ModuleList` whose length a field of the config says. Two proofs follow. The
layers that stay have to be layers of a stock model with fewer layers, save their index. And a model
whose layer is passed by has to compute what the model without that layer computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from hf_td.anatomy.blocks import Anatomy, LayerStack
from hf_td.anatomy.depth import Depth, Shrinking, fields_without
from hf_td.anatomy.inputs import check_given
from hf_td.anatomy.reading import fingerprint
from hf_td.anatomy.stack_proofs import (
    Run,
    difference,
    fixed_layers,
    run_of_stack,
    shared_parameter,
    watched_runs,
)
from hf_td.modules.layouts import expert_modules, linear_layers
from hf_td.modules.saving import is_pretrained
from hf_td.modules.stock_models import Path, attempt

# The obstacle of a stack from which nothing is left to take.
ONE_LAYER = "it has one layer, and that has to stay"

_REPLACED = (
    "the forward of its layers was replaced on the instance, as device_map hooks do. Load the "
    "model without them"
)
_NO_FIELD = "no field of its config can say that it has fewer layers"

_STACKS: dict[tuple[Any, ...], tuple[LayerStack, ...]] = {}
_MOST_READINGS = 64


def with_stacks(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None = None
) -> Anatomy:
    """Return the anatomy of a model with its stacks of layers, which are read if it has none."""
    if anatomy.stacks:
        return anatomy
    return replace(anatomy, stacks=read_stacks(model, example_inputs))


def read_stacks(
    model: nn.Module, example_inputs: Mapping[str, Any] | None = None
) -> tuple[LayerStack, ...]:
    """Find the stacks of layers of a model.

    Builds stock models of fewer layers on the meta device, and runs the model on a few tokens, in
    eval mode. The model is left unchanged. The reading is kept as that of `read_anatomy` is.

    Args:
        model: a `PreTrainedModel`; any other module has no config that could say fewer layers.
        example_inputs: as for `read_anatomy`.

    Returns:
        The stacks in the order of the model's modules, those that are refused included.

    Raises:
        ValueError: no stock model can be built from the config, or as for `read_anatomy`.
    """
    check_given(example_inputs)
    if not is_pretrained(model):
        return ()
    key = fingerprint(model, example_inputs)
    if key not in _STACKS:
        if len(_STACKS) >= _MOST_READINGS:
            _STACKS.clear()
        proposed = _proposed(model)
        runs = watched_runs(model, proposed, example_inputs)
        _STACKS[key] = tuple(_proven(model, stack, runs) for stack in proposed)
    return _STACKS[key]


def _proposed(model: Any) -> list[LayerStack]:
    """Return the outermost lists of modules with linear layers, with their fields."""
    depths = _depths(model)
    found: list[LayerStack] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stack.name}.") for stack in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and _computes(module):
            fields = depths.get(name, [])
            found.append(_stack(name, len(module), fields))
    return found


def _computes(layers: nn.ModuleList) -> bool:
    """Return True if every entry of a list has several linear layers of its own."""
    return all(len(linear_layers(layer)) + len(expert_modules(layer)) > 1 for layer in layers)


def _stack(name: str, units: int, fields: Sequence[tuple[Depth, int]]) -> LayerStack:
    stack = LayerStack(name, units)
    if not fields:
        return replace(stack, obstacle=ONE_LAYER if units == 1 else _NO_FIELD)
    depth, lists = min(fields, key=lambda pair: pair[1])
    if lists > 1:
        path = ".".join(depth.path)
        return replace(stack, obstacle=f"{path} is the length of {lists} lists, not of this alone")
    return replace(stack, depth=depth)


def _depths(model: Any) -> dict[str, list[tuple[Depth, int]]]:
    """Return the fields of the config that say the length of each list of modules.

    Each comes with the number of lists whose length it says.
    """
    full = attempt(model, model.config, {})
    if full is None:
        raise ValueError(
            f"the stacks of layers of {type(model).__name__} cannot be read: its class builds no "
            "model from its config. Leave whole layers alone: layers_level='none'"
        )
    lengths = _lengths(full)
    found: dict[str, list[tuple[Depth, int]]] = {}
    for path, layers in _counts(model.config):
        names = [name for name, length in lengths.items() if length == layers]
        trials = [Depth(name, path, layers) for name in names]
        fields = fields_without(model.config, trials[:1], {n: [layers - 1] for n in names[:1]})
        small = attempt(model, model.config, fields) if trials else None
        after = {} if small is None else _lengths(small)
        shorter = [depth for depth in trials if after.get(depth.stack) == layers - 1]
        for depth in shorter:
            found.setdefault(depth.stack, []).append((depth, len(shorter)))
    return found


def _lengths(model: nn.Module) -> dict[str, int]:
    modules = model.named_modules()
    return {name: len(one) for name, one in modules if isinstance(one, nn.ModuleList)}


def _counts(config: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Yield the fields of a config, and of those nested in it, that may count layers."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _counts(value, (*path, name))
        elif type(value) is int and value > 1 and ("layer" in name or name == "depth"):
            yield (*path, name), value


def _proven(model: Any, stack: LayerStack, runs: Sequence[Run | str]) -> LayerStack:
    """Return a stack with what the proofs say against taking its layers out."""
    run = run_of_stack(stack, runs)
    if isinstance(run, str):
        only = stack.obstacle is None or stack.units == 1
        return replace(stack, obstacle=run) if only else stack
    depth = stack.depth
    if depth is None:
        return stack
    layers: Any = model.get_submodule(stack.name)
    if any("forward" in vars(layer) for layer in layers):
        return replace(stack, obstacle=_REPLACED)
    shared = shared_parameter(model, stack)
    if shared is not None:
        return replace(stack, obstacle=f"its layers share {shared} with the rest of the model")
    stack = replace(stack, run=run.path, fixed=fixed_layers(model, depth))
    return replace(stack, obstacle=_obstacle(model, stack, depth, run))


def _obstacle(model: Any, stack: LayerStack, depth: Depth, run: Run) -> str | None:
    """Return why no layer can be taken out, once the last and the first that may go are tried."""
    free = [index for index in range(stack.units) if index not in stack.fixed]
    for index in dict.fromkeys([*free[-1:], *free[:1]]):
        shrinking = Shrinking.of(model, [depth], {stack.name: [index]})
        why = difference(model, shrinking, {run.path: run.inputs})
        if why is not None:
            return f"without layer {index} the model differs: {why}"
    return None if free else next(iter(stack.fixed.values()))
