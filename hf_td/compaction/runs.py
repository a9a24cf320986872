"""Which modules of a model are run to compare or to try it, and on what."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_td.anatomy import Anatomy, Block, probe_inputs

# The modules whose forwards are run, by dotted name ("" for the model), with the arguments of each.
Runs = Mapping[str, Mapping[str, Any]]


def runs_of(
    model: nn.Module, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None = None
) -> Runs:
    """The model itself, and those of its towers that it does not run by itself."""
    if example_inputs is not None:
        return {"": example_inputs}
    return {path: _inputs_of(model.get_submodule(path)) for path in anatomy.runs}


def run_of(block: Block, runs: Runs) -> str:
    """The innermost of the modules that a block is part of."""
    around = [path for path in runs if not path or block.name.startswith(f"{path}.")]
    return max(around, key=len)


def _inputs_of(model: nn.Module) -> dict[str, Any]:
    """What the base model runs on, unless the model itself takes something else."""
    try:
        inputs = probe_inputs(getattr(model, "base_model", model))
    except ValueError:  # a base that takes no input of the user
        return probe_inputs(model)
    accepted = inspect.signature(model.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    return inputs if anything or inputs.keys() <= accepted.keys() else probe_inputs(model)
