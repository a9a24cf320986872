"""Proves that the layers of a stack can be taken out whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.blocks import LayerStack
from hf_td.anatomy.comparing import compare_outputs
from hf_td.anatomy.depth import Depth, Shrinking, fields_without
from hf_td.anatomy.experts import eager_experts
from hf_td.anatomy.inputs import probe_inputs, trace_given
from hf_td.anatomy.trace import evaluating, in_own_type, seeded, tensors_in
from hf_td.modules.passing import hidden_in, hidden_out, is_passed, mark_passed

# Both models run the same kernels in the same order, so this is room for atomic sums on a GPU.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}


@dataclass(frozen=True)
class Run:
    """One forward of a model, and what it did in its stacks of layers.

    Attributes:
        path: dotted name of the module that was run, "" for the whole model.
        inputs: keyword arguments of the forward.
        times: by stack, how often each layer ran.
        shapes: by stack, the shapes of hidden states before and after its layers; None where a
            layer takes or returns none.
    """

    path: str
    inputs: Mapping[str, Any]
    times: dict[str, Counter[int]] = field(default_factory=dict)
    shapes: dict[str, set[Any]] = field(default_factory=dict)

    def see(
        self, stack: str, index: int, _: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Record one call of a layer; a forward hook."""
        self.times.setdefault(stack, Counter())[index] += 1
        shapes = self.shapes.setdefault(stack, set())
        try:
            shapes.update((hidden_in(args, kwargs).shape, hidden_out(output).shape))
        except (KeyError, IndexError, TypeError, AttributeError):
            shapes.add(None)


def watched_runs(
    model: nn.Module, stacks: Iterable[LayerStack], example_inputs: Mapping[str, Any] | None
) -> list[Run | str]:
    """Run the whole model, and its base model; a reason stands for what does not run."""
    found: list[Run | str] = []
    for path in _whole_and_base(model):
        module = model.get_submodule(path)
        try:
            run = Run(path, _inputs(module, None if path else example_inputs))
            _watch(model, stacks, run)
            found.append(run)
        except Exception as error:
            found.append(f"no forward of it could be run ({error})")
    return found


def _inputs(module: nn.Module, example_inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if example_inputs is None:
        return probe_inputs(module)
    trace_given(module, example_inputs)
    return example_inputs


def _whole_and_base(model: Any) -> list[str]:
    """Return the names of the whole model and of its base model.

    A tower alone would not show what the whole model reads of it: LLaVA takes the states before the
    last layer of its vision tower.
    """
    base = getattr(model, "base_model", model)
    names = (name for name, module in model.named_modules() if module is base)
    return list(dict.fromkeys(["", *names]))


def _watch(model: nn.Module, stacks: Iterable[LayerStack], run: Run) -> None:
    hooks = []
    for stack in stacks:
        layers: Any = model.get_submodule(stack.name)
        for index, layer in enumerate(layers):
            see = partial(run.see, stack.name, index)
            hooks.append(layer.register_forward_hook(see, with_kwargs=True))
    try:
        outputs(model.get_submodule(run.path), run.inputs)
    finally:
        for hook in hooks:
            hook.remove()


def run_of_stack(stack: LayerStack, runs: Iterable[Run | str]) -> Run | str:
    """Return the first run that has the layers of a stack, or why they are no layers of one."""
    why = "no forward of it could be run"
    for run in runs:
        if isinstance(run, str):
            why = run
            continue
        times = run.times.get(stack.name)
        if not times:
            why = "no forward on an example input runs it. Pass example_inputs that do"
            continue
        first, most = times.most_common(1)[0]
        if most > 1:
            return f"layer {first} is shared: it runs {most} times in a forward"
        if len(times) < stack.units:
            return "a forward does not run all of its layers"
        shapes = run.shapes[stack.name]
        if len(shapes) > 1 or None in shapes:
            return "its layers do not map hidden states to hidden states of the same shape"
        return run
    return why


def fixed_layers(model: Any, depth: Depth) -> dict[int, str]:
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


def shared_parameter(model: nn.Module, stack: LayerStack) -> str | None:
    """Return the name of a parameter that two layers, or a layer and anything else, have."""
    owners: dict[int, tuple[str, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        within = name.startswith(f"{stack.name}.")
        owner = name.removeprefix(f"{stack.name}.").split(".")[0] if within else ""
        known, first = owners.setdefault(id(parameter), (owner, name))
        if known != owner:
            return name if within else first
    return None


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
