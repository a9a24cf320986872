"""Lists the modules of a model that are run to compare or to try it, with their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_td.anatomy import Anatomy, Block, probe_inputs
from hf_td.anatomy.inputs import trace_given

# From the dotted name of a module that is run ("" for the model) to the arguments of its forward.
Runs = Mapping[str, Mapping[str, Any]]


def runs_of(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None = None
) -> Runs:
    """Return the model itself, and the towers that a forward of the model does not run.

    Raises:
        ValueError: the model does not run on `example_inputs`, or on no input that can be made.
    """
    towers = _towers(model, anatomy)
    if example_inputs is not None:
        trace_given(model, example_inputs)
        return {"": example_inputs, **towers}
    return {"": probe_inputs(model), **towers} if "" in anatomy.runs else towers


def trial_runs_of(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None = None
) -> Runs:
    """Return as `runs_of`, but the base model in place of a head that no made input runs.

    The units are in the base model, so a trial does not need the head.
    """
    base = getattr(model, "base_model", model)
    try:
        return runs_of(model, anatomy, example_inputs)
    except ValueError:
        if example_inputs is not None or base is model:
            raise
        prefix = next(name for name, module in model.named_modules() if module is base)
        return {prefix: probe_inputs(base), **_towers(model, anatomy)}


def _towers(model: nn.Module, anatomy: Anatomy) -> dict[str, dict[str, Any]]:
    return {path: probe_inputs(model.get_submodule(path)) for path in anatomy.runs if path}


def run_of(block: Block, runs: Runs) -> str:
    """Return the name of the innermost of the modules that contain a block."""
    around = [path for path in runs if not path or block.name.startswith(f"{path}.")]
    return max(around, key=len)
