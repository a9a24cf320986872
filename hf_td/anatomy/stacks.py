"""Finds the stacks of layers of a model, and proves that their layers can be taken out whole.

Structure proposes: a `ModuleList` whose length a field of the config says. Two proofs follow. The
layers that stay have to be layers of a stock model with fewer layers, save their index. And a model
whose layer is passed by has to compute what the model without that layer computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_td.anatomy.blocks import Anatomy, LayerStack
from hf_td.anatomy.comparing import compare_outputs
from hf_td.anatomy.depth import Depth, Shrinking, fields_without
from hf_td.anatomy.experts import eager_experts
from hf_td.anatomy.inputs import probe_inputs, trace_given
from hf_td.anatomy.reading import fingerprint
from hf_td.anatomy.trace import evaluating, in_own_type, seeded, tensors_in
from hf_td.modules.layouts import expert_modules, linear_layers
from hf_td.modules.passing import hidden_in, hidden_out, is_passed, mark_passed
from hf_td.modules.saving import is_pretrained
from hf_td.modules.stock_models import Path, attempt, build_empty, stock_config

# Both models run the same kernels in the same order, so this is room for atomic sums on a GPU.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}


# The obstacle of a stack from which nothing is left to take.
ONE_LAYER = "it has one layer, and that has to stay"

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
    """
    if not is_pretrained(model):
        return ()
    key = fingerprint(model, example_inputs)
    if key not in _STACKS:
        if len(_STACKS) >= _MOST_READINGS:
            _STACKS.clear()
        _STACKS[key] = tuple(_proven(model, stack, example_inputs) for stack in _proposed(model))
    return _STACKS[key]


def _proposed(model: Any) -> list[LayerStack]:
    """Return the outermost lists of modules with linear layers, with their fields."""
    depths = _depths(model)
    found: list[LayerStack] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stack.name}.") for stack in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and _computes(module):
            fields = depths.get(name, [])
            found.append(_stack(name, len(module), fields, module))
    return found


def _computes(layers: nn.ModuleList) -> bool:
    """Return True if every entry of a list has several linear layers of its own."""
    return all(len(linear_layers(layer)) + len(expert_modules(layer)) > 1 for layer in layers)


def _stack(name: str, units: int, fields: Sequence[tuple[Depth, int]], module: Any) -> LayerStack:
    stack = LayerStack(name, units)
    if not fields:
        why = "no field of its config can say that it has fewer layers"
        if units == 1:
            why = ONE_LAYER
        return replace(stack, obstacle=why)
    depth, lists = min(fields, key=lambda pair: pair[1])
    if lists > 1:
        path = ".".join(depth.path)
        return replace(stack, obstacle=f"{path} is the length of {lists} lists, not of this alone")
    return replace(stack, depth=depth)


def _depths(model: Any) -> dict[str, list[tuple[Depth, int]]]:
    """Return the fields of the config that say the length of each list of modules.

    Each comes with the number of lists whose length it says.
    """
    lengths = _lengths(build_empty(model, stock_config(model.config, {})))
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


def _proven(model: Any, stack: LayerStack, example_inputs: Mapping[str, Any] | None) -> LayerStack:
    """Return a stack with what the proofs say against taking its layers out."""
    calls = _calls(model, stack, example_inputs)
    if isinstance(calls, str):
        return stack if stack.obstacle and stack.units > 1 else replace(stack, obstacle=calls)
    run, inputs = calls
    if stack.obstacle is not None or stack.depth is None:
        return stack
    shared = _shared(model, stack)
    if shared is not None:
        return replace(stack, obstacle=f"its layers share {shared} with the rest of the model")
    fixed = _fixed(model, stack.depth)
    free = [index for index in range(stack.units) if index not in fixed]
    stack = replace(stack, fixed=fixed, run=run)
    for index in dict.fromkeys([*free[-1:], *free[:1]]):
        shrinking = Shrinking.of(model, [stack.depth], {stack.name: [index]})
        why = difference(model, shrinking, {run: inputs})
        if why is not None:
            return replace(stack, obstacle=f"without layer {index} the model differs: {why}")
    if not free:
        return replace(stack, obstacle=next(iter(fixed.values())))
    return stack


def _fixed(model: Any, depth: Depth) -> dict[int, str]:
    """Return the layers without which another one would not be a stock layer in its place."""
    known: dict[str, Shrinking | str] = {}
    fixed: dict[int, str] = {}
    for index in range(depth.layers):
        gone = {depth.stack: [index]}
        key = repr(fields_without(model.config, [depth], gone))
        if key not in known:
            try:
                known[key] = Shrinking.of(model, [depth], gone)
            except Exception as error:
                known[key] = f"its class refuses fewer layers ({error})"
        shrinking = known[key]
        why = shrinking if isinstance(shrinking, str) else replace(shrinking, gone=gone).misfit()
        if why is not None:
            fixed[index] = why
    return fixed


def _shared(model: nn.Module, stack: LayerStack) -> str | None:
    """Return the name of a parameter that two layers, or a layer and anything else, have."""
    owners: dict[int, tuple[str, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        within = name.startswith(f"{stack.name}.")
        owner = name.removeprefix(f"{stack.name}.").split(".")[0] if within else ""
        known, first = owners.setdefault(id(parameter), (owner, name))
        if known != owner:
            return name if within else first
    return None


def _calls(
    model: nn.Module, stack: LayerStack, example_inputs: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]] | str:
    """Return what to run to see the layers of a stack, or why they are no layers of one stack."""
    why = "no forward of it could be run"
    for path in _whole_and_base(model):
        module = model.get_submodule(path)
        try:
            if not path and example_inputs is not None:
                trace_given(module, example_inputs)
                inputs: Mapping[str, Any] = example_inputs
            else:
                inputs = probe_inputs(module)
            times, shapes = _watch(model, stack, module, inputs)
        except Exception as error:
            why = f"no forward of it could be run ({error})"
            continue
        if not times:
            why = "no forward on an example input runs it. Pass example_inputs that do"
            continue
        first = max(times, key=lambda index: times[index])
        if times[first] > 1:
            return f"layer {first} is shared: it runs {times[first]} times in a forward"
        if len(times) < stack.units:
            return "a forward does not run all of its layers"
        if len(shapes) > 1 or None in shapes:
            return "its layers do not map hidden states to hidden states of the same shape"
        return path, inputs
    return why


def _whole_and_base(model: Any) -> list[str]:
    """Return the names of the whole model and of its base model.

    A tower alone would not show what the whole model reads of it: LLaVA takes the states before the
    last layer of its vision tower.
    """
    base = getattr(model, "base_model", model)
    names = (name for name, module in model.named_modules() if module is base)
    return list(dict.fromkeys(["", *names]))


def _watch(
    model: nn.Module, stack: LayerStack, run: nn.Module, inputs: Mapping[str, Any]
) -> tuple[Counter[int], set[Any]]:
    """Return how often each layer runs, and the shapes of hidden states; None for no such shape."""
    times: Counter[int] = Counter()
    shapes: set[Any] = set()

    def see(index: int, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
        times[index] += 1
        try:
            before, after = hidden_in(args, kwargs), hidden_out(output)
            shapes.update((before.shape, after.shape))
        except (KeyError, IndexError, TypeError, AttributeError):
            shapes.add(None)

    layers: Any = model.get_submodule(stack.name)
    hooks = [
        layer.register_forward_hook(partial(see, index), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    try:
        outputs(run, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return times, shapes


def outputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the floating-point outputs of one forward in eval mode, by their place."""
    with (
        torch.no_grad(),
        evaluating(model),
        in_own_type(model),
        eager_experts(model),
        seeded(model),
    ):
        found = tensors_in(model(**inputs))
    return {f"output {i}": t for i, t in enumerate(t for t in found if t.is_floating_point())}


def difference(
    model: nn.Module, shrinking: Shrinking, runs: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Return how a model whose layers are passed by differs from the model without them, or None.

    The model is left as it was.

    Args:
        model: the whole model.
        shrinking: the layers that go.
        runs: what to run, by the name of the module, "" for the model.
    """
    every = [
        layer
        for stack, gone in shrinking.gone.items()
        for layer in (model.get_submodule(f"{stack}.{index}") for index in gone)
    ]
    passed = [layer for layer in every if is_passed(layer)]
    for layer in every:
        mark_passed(layer)
    try:
        before = {path: outputs(model.get_submodule(path), runs[path]) for path in runs}
        undo = shrinking.apply(model)
        try:
            for path, expected in before.items():
                got = outputs(model.get_submodule(path), runs[path])
                _compare(expected, got)
        except Exception as error:
            return str(error)
        finally:
            undo()
    finally:
        for layer in every:
            mark_passed(layer, any(layer is one for one in passed))
    return None


def _compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    if expected.keys() != got.keys():
        raise ValueError(f"{len(expected)} outputs were expected, and there are {len(got)}")
    for name, value in expected.items():
        compare_outputs(name, value, got[name], TOLERANCE)
