"""Takes the layers of a model that are passed by out of their stacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hf_td.anatomy import LayerStack, probe_inputs, read_stacks
from hf_td.anatomy.depth import Shrinking
from hf_td.anatomy.stack_proofs import difference
from hf_td.compaction.alignment import renumber_layers
from hf_td.modules.compact_saving import attach_layout, layout_of_model
from hf_td.modules.compact_shapes import CompactLayout
from hf_td.modules.passing import mark_passed, passed_layers
from hf_td.ranking.source import rename_saved


def take_out_layers(
    model: nn.Module, *, check: bool = True, example_inputs: Mapping[str, Any] | None = None
) -> Callable[[], None] | None:
    """Take the layers that are passed by out of a model, in place; its config follows.

    Args:
        model: a model with stock classes, save those of layers that are passed by.
        check: compare the outputs before and after on a small input.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.

    Returns:
        A function that undoes it, or None if no layer is passed by.

    Raises:
        ValueError: the layers of a stack cannot be taken out, or the model without them computes
            something else. The model is left as it was.
    """
    gone: dict[str, list[int]] = {}
    for name in passed_layers(model):
        stack, _, index = name.rpartition(".")
        gone.setdefault(stack, []).append(int(index))
    if not gone:
        return None
    stacks = [_stack_of(model, name, example_inputs) for name in gone]
    depths = [stack.depth for stack in stacks if stack.depth is not None]
    shrinking = Shrinking.of(model, depths, gone)
    why = shrinking.misfit()
    if why is None and check:
        paths = dict.fromkeys(stack.run for stack in stacks)
        runs = {path: _inputs(model, path, example_inputs) for path in paths}
        why = difference(model, shrinking, runs)
    if why is not None:
        raise ValueError(
            f"the layers {gone} of {type(model).__name__} cannot be taken out, and the model was "
            f"left as it was: {why}"
        )
    layers = [model.get_submodule(f"{name}.{index}") for name in gone for index in gone[name]]
    put_back = shrinking.apply(model)
    renamed = {shrinking.old(name): name for name, _ in model.named_modules()}
    del renamed[""]
    layout = layout_of_model(model) or CompactLayout()
    attach_layout(model, layout.renamed(renamed))
    for stack in gone:
        renamed.pop(stack)  # what was measured of its layers is of those that are gone too
    name_back = rename_saved(model, renamed)
    align_back = renumber_layers(model, gone)
    for layer in layers:
        mark_passed(layer, False)

    def undo() -> None:
        for layer in layers:
            mark_passed(layer)
        align_back()
        name_back()
        put_back()
        attach_layout(model, layout)

    return undo


def _stack_of(model: nn.Module, name: str, example_inputs: Mapping[str, Any] | None) -> LayerStack:
    for stack in read_stacks(model, example_inputs):
        if stack.name == name and stack.obstacle is None:
            return stack
    raise ValueError(
        f"layers of {name} are passed by, but {type(model).__name__} has no such stack from which "
        "layers can be taken out"
    )


def _inputs(
    model: nn.Module, path: str, example_inputs: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    if not path and example_inputs is not None:
        return example_inputs
    return probe_inputs(model.get_submodule(path))
