"""The sentences of a model card, and its formats of numbers."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import torch
import transformers

import hf_td
from hf_td.analysis.metrics import metric_value
from hf_td.hub.card.info import CardInfo
from hf_td.hub.card.removal import Removal
from hf_td.hub.forms.form import Form

# The formats that the template writes numbers in.
FORMATS: dict[str, Any] = {
    "number": lambda count: f"{count:,}",
    "percent": lambda fraction: f"{fraction:.1%}",
    "megabytes": lambda count: f"{count / 1e6:,.2f} MB",
    "value": metric_value,
    "quoted": lambda text: " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;"),
}


def versions() -> str:
    """Return the versions of the packages that this process exports with."""
    modules = {"hf_td": hf_td, "transformers": transformers, "torch": torch}
    return ", ".join(f"{name} {module.__version__}" for name, module in modules.items())


def without_paths(command: str) -> str:
    """Return a command line with the last part alone of paths of this machine."""
    words = []
    for word in shlex.split(command):
        option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        words.append(f"{option}{equals}{_shown(value)}")
    return shlex.join(words)


def _shown(value: str) -> str:
    path = Path(value)
    if path.suffix == ".py" and path.parent.name == "scripts":
        return f"scripts/{path.name}"  # of a clone, wherever it is
    is_local = value.startswith(("/", "~")) or (os.sep in value and path.exists())
    return f"path/to/{path.name}" if is_local else value


def limitations(
    info: CardInfo, form: Form, removal: Removal, parameters: int, license: str | None
) -> list[str]:
    """Return the limitations that follow from the facts, and those that the caller adds.

    Args:
        info: what the caller knows.
        form: of the export.
        removal: what was removed.
        parameters: number of parameters of the export.
        license: identifier, if it is known.
    """
    all_stored = removal.removed > 0 and parameters == removal.parameters
    sentences = [
        _on_quality(info),
        "Its speed was not measured." if info.latency is None else None,
        no_smaller(removal, parameters, form) or form.limitation(all_stored=all_stored),
        "It has the limits and the biases of its base model." if info.base_model else None,
        "Its licence is unknown." if license is None else None,
    ]
    return [*filter(None, sentences), *info.limitations]


def no_smaller(removal: Removal, parameters: int, form: Form) -> str | None:
    """Return the sentence about an export that is as large as the dense model, with what helps."""
    if form.compresses or parameters < removal.parameters:
        return None
    if not removal.removed:
        return (
            "It is no smaller than a model of its config: no head, neuron or weight of it is "
            "pruned. To make it smaller, prune some: prune_model(model, sparsity, level='unit')."
        )
    cure = "Pruned heads and neurons (level='unit') are taken out, and"
    if removal.structured:
        cure = "The form 'compact' takes them out where the model allows it, and"
    return f"{form.limitation(all_stored=True)} {cure} the form 'archive' compresses zeros."


def _on_quality(info: CardInfo) -> str:
    if info.exported_point is not None:
        return "Its quality was measured as shown above, and on no other data."
    if info.points:
        return "Which row of the table this model is was not recorded."
    return "No metric was recorded with it."
