"""Lets a changed model name no folder: who loads the folder gets the model as it was before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from hf_td.modules.saving import is_pretrained, save_with
from hf_td.ranking.activations import (
    ACTIVATIONS,
    Activations,
    attach_activations,
    find_activations,
)
from hf_td.ranking.learned import LEARNED, attach_learned, find_learned

logger = logging.getLogger(__name__)


def forget_source(model: nn.Module) -> None:
    """Remove the name of the folder or repository from a model that was pruned in memory.

    Programs load a model again by this name: trl does for the reference of a policy, and peft for
    the base of an adapter. They would get the model before pruning, without a warning. A model
    without a name is refused by them. What is saved next to the weights is attached first.
    """
    _attach_saved(model)
    every: Iterator[Any] = model.modules()
    for module in every:
        if is_pretrained(module):
            module.__dict__["name_or_path"] = module.config.name_or_path = ""
        for adapter in getattr(module, "peft_config", {}).values():
            adapter.base_model_name_or_path = None


def _attach_saved(model: Any) -> None:
    """Attach the activations and learned scores in the folder of a model.

    A damaged file is warned of: what needs its values has refused it before.
    """
    try:
        measured = find_activations(model) if ACTIVATIONS.attached(model) is None else None
        if measured is not None:
            attach_activations(model, measured)
        learned = find_learned(model) if LEARNED.attached(model) is None else None
        if learned:
            attach_learned(model, learned)
    except ValueError as error:
        logger.warning("warning: %s. Saves of this model will not write it", error)


def rename_saved(model: nn.Module, renamed: Mapping[str, str]) -> Callable[[], None]:
    """Rename the layers of attached activations and learned scores; return what undoes it.

    Args:
        model: the model that layers were taken out of.
        renamed: new names of modules by their old ones; what is of no such module is left out.
    """
    activations, learned = ACTIVATIONS.attached(model), LEARNED.attached(model)
    undone: list[Callable[[], None]] = []
    if activations is not None and activations[0] is not None:
        own = activations[0]
        before = Activations()
        before.replace_by(own)
        undone.append(lambda: own.replace_by(before))
        own.mean_squares = _renamed(own.mean_squares, renamed)
        own.measured = _renamed(own.measured, renamed)
    if learned is not None and learned[0] is not None:
        scores = dict(learned[0])
        undone.append(lambda: attach_learned(model, scores))
        attach_learned(model, _renamed(scores, renamed))

    def undo() -> None:
        for one in undone:
            one()

    return undo


def _renamed(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    return {renamed[name]: value for name, value in values.items() if name in renamed}


def keep_unsaved(model: nn.Module) -> None:
    """Write no activations and learned scores next to a model that is smaller, or exported."""
    for module in model.modules():
        for kind in (ACTIVATIONS, LEARNED):
            if kind.attribute in module.__dict__:
                save_with(module, kind.file, None)
