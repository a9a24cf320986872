"""Finds what pruning would make of a model: parameters, bytes and form, without writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_td.analysis import pruning_curve
from hf_td.anatomy import Anatomy
from hf_td.compaction import needed_units
from hf_td.config import TargetedDropoutConfig
from hf_td.hub.export import cut_to_form, shell_of
from hf_td.hub.forms import FORMS, load_form
from hf_td.hub.forms.form import Refusal, Source

_MULTIPLE = 8  # of feed-forward widths, as export_model has it by default


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """What is left of a model after heads and neurons were pruned and taken out.

    Attributes:
        sparsity: fraction of the prunable weights that was asked for.
        removed: fraction that was removed.
        parameters: number that is left.
        bytes: of the weights that are left.
        form: that `auto` chooses.
        refused: for each form why it cannot hold the model or be written here; None where it can.
    """

    sparsity: float
    removed: float
    parameters: int
    bytes: int
    form: str
    refused: dict[str, str | None]


def smaller_models(
    model: Any,
    sparsities: Sequence[float],
    *,
    anatomy: Anatomy,
    example_inputs: Mapping[str, Any] | None,
) -> list[Smaller]:
    """Return what is left at each sparsity of heads and neurons, the lowest magnitudes removed.

    Raises:
        ValueError: the model has no heads or neurons that can be taken out.
    """
    read: dict[str, Any] = {"anatomy": anatomy, "example_inputs": example_inputs}
    found: list[dict[str, Any]] = []

    def cut(masked: Any) -> float:
        copy = cut_to_form(masked, check=False, **read)
        size = {"parameters": copy.model.num_parameters(), "bytes": weight_bytes(copy.model)}
        found.append({**size, "form": copy.form, "refused": _refusals(masked, **read)})
        return copy.model.num_parameters()

    config = TargetedDropoutConfig(level="unit", importance="magnitude")
    points = pruning_curve(model, sparsities, cut, config, **read)
    return [
        Smaller(sparsity=point.sparsity, removed=point.removed_prunable, **size)
        for point, size in zip(points, found, strict=True)
    ]


def weight_bytes(model: Any) -> int:
    """Return the bytes of all parameters, each counted once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def _refusals(
    model: Any, *, anatomy: Anatomy, example_inputs: Mapping[str, Any] | None
) -> dict[str, str | None]:
    shell = shell_of(model)
    needed = needed_units(shell, anatomy, _MULTIPLE, example_inputs)
    source = Source(model=shell, anatomy=anatomy, needed=needed)
    return {name: _refusal(name, source) for name in FORMS}


def _refusal(form: str, source: Source) -> str | None:
    try:
        load_form(form).plan(source)
    except Refusal as refusal:
        return refusal.reason
    except ImportError as missing:
        return str(missing)
    return None
