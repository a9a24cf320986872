"""Traces a model, and separately those of its towers that the model's own forward does not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_td.anatomy.inputs import first_that_runs, trace_given
from hf_td.anatomy.trace import Trace, trace
from hf_td.modules.layouts import linear_layers


@dataclass
class Traces:
    """The traces of a model and of its towers.

    Attributes:
        seen: traces by the dotted name of the module whose forward was run, "" for the model.
        unread: reasons by the dotted name of each module whose forward did not run.
    """

    seen: dict[str, Trace] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def called(self) -> list[str]:
        """Dotted names of the linear layers and modules of experts that were called, in order."""
        return [join(path, name) for path, seen in self.seen.items() for name in seen.called]


def trace_all(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> Traces:
    """Trace a model; a tower that it does not run is traced on an input made for the tower.

    Call it within `thawed`.

    Args:
        model: any module.
        inputs: keyword arguments of its forward; None to make some.

    Raises:
        ValueError: neither the model nor a tower could be run.
    """
    found = Traces()
    failure = None
    if inputs is None:
        failure = _try(model, "", found)
    else:
        found.seen[""] = trace_given(model, inputs)
    for path, tower in _towers(model):
        if not {join(path, name) for name in linear_layers(tower)}.intersection(found.called):
            _try(tower, path, found)
    if failure is not None and not found.seen:
        raise failure
    return found


def _try(module: nn.Module, path: str, found: Traces) -> ValueError | None:
    """Trace one module; record and return its failure."""
    try:
        found.seen[path] = first_that_runs(module, lambda inputs: trace(module, inputs))
    except ValueError as error:
        found.unread[path] = str(error)
        return error
    return None


def _towers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the models within a model, outer ones first."""
    for name, module in model.named_modules():
        is_model = hasattr(module, "config") and hasattr(module, "main_input_name")
        if module is not model and is_model and linear_layers(module):
            yield name, module


def join(path: str, name: str) -> str:
    """Join the dotted name of a module and a name within it; either may be empty."""
    return f"{path}.{name}" if path and name else path or name
