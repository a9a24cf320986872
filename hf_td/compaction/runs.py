"""Lists the modules of a model that are run to compare or to try it, with their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_td.anatomy import Anatomy, Block, probe_inputs

# From the dotted name of a module that is run ("" for the model) to the arguments of its forward.
Runs = Mapping[str, Mapping[str, Any]]


def runs_of(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None = None
) -> Runs:
    """Return the model itself, and the towers that a forward of the model does not run."""
    if example_inputs is not None:
        return {"": example_inputs}
    return {path: _inputs_of(model.get_submodule(path)) for path in anatomy.runs}


def run_of(block: Block, runs: Runs) -> str:
    """Return the name of the innermost of the modules that contain a block."""
    around = [path for path in runs if not path or block.name.startswith(f"{path}.")]
    return max(around, key=len)


def _inputs_of(model: nn.Module) -> dict[str, Any]:
    """Return inputs of the base model, or of the model itself if it does not accept those."""
    try:
        inputs = probe_inputs(getattr(model, "base_model", model))
    except ValueError:  # a base model that takes no input from the user
        return probe_inputs(model)
    accepted = inspect.signature(model.forward).parameters
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return inputs if accepts_any or inputs.keys() <= accepted.keys() else probe_inputs(model)
