"""Traces a model, and also those of its towers that it does not run on an example input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_td.anatomy.inputs import first_that_runs
from hf_td.anatomy.trace import Trace, trace
from hf_td.modules.layouts import linear_layers


@dataclass
class Traces:
    """What the forwards of a model and of its towers showed.

    Attributes:
        seen: traces by the dotted name of the module whose forward was run, "" for the model.
        unread: reasons by the dotted name of a tower of which no forward ran.
    """

    seen: dict[str, Trace] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def called(self) -> list[str]:
        """Dotted names of the linear layers that were called, in order."""
        return [join(path, name) for path, seen in self.seen.items() for name in seen.called]


def trace_all(
    model: nn.Module, example_inputs: Mapping[str, Any] | None = None, *, whole: bool = False
) -> Traces:
    """Trace a model; a tower that was not run gets an input of its own.

    To be called within `thawed`.

    Args:
        model: what to run.
        example_inputs: keyword arguments of its forward.
        whole: as in `trace`.

    Raises:
        ValueError: no forward ran, neither of the model nor of a tower.
    """
    if example_inputs is not None:
        return Traces({"": trace(model, example_inputs, whole=whole)})
    found = Traces()
    failure = _try(model, "", found, whole)
    for path, tower in _towers(model):
        if not {join(path, name) for name in linear_layers(tower)}.intersection(found.called):
            _try(tower, path, found, whole)
    if failure is not None and not found.seen:
        raise failure
    return found


def _try(module: nn.Module, path: str, found: Traces, whole: bool) -> Exception | None:
    try:
        found.seen[path] = first_that_runs(
            module, lambda inputs: trace(module, inputs, whole=whole)
        )
    except ValueError as error:
        found.unread[path] = str(error)
        return error
    return None


def _towers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Models within the model, outer ones first."""
    for name, module in model.named_modules():
        is_model = hasattr(module, "config") and hasattr(module, "main_input_name")
        if module is not model and is_model and linear_layers(module):
            yield name, module


def join(path: str, name: str) -> str:
    """A dotted name within the module at a path."""
    return f"{path}.{name}" if path and name else path or name
