"""Lets every save of a model write files beside its weights.

Trainers, pushes and users save a model by its `save_pretrained`. So a model that has something to
save gets a `save_pretrained` of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

# Entered before a save and left after it, with the model and the folder.
Around = Callable[[Any, Path], AbstractContextManager[None]]

_AROUND = "_hf_td_around_saving"


def is_pretrained(module: nn.Module) -> bool:
    """Return True for a `PreTrainedModel`, whose import would import hf_td's loader."""
    return hasattr(type(module), "base_model_prefix")


def save_with(model: nn.Module, file: str, around: Around | None) -> None:
    """Enter a context around every save of a model that is a `PreTrainedModel`.

    Args:
        model: any module.
        file: the file that the context writes; a later context for this file replaces this one.
        around: the context; None for none.
    """
    every: dict[str, Around | None] = {**model.__dict__.pop(_AROUND, {}), file: around}
    model.__dict__.pop("save_pretrained", None)
    every = {name: one for name, one in every.items() if one is not None}
    if every and is_pretrained(model):
        model.__dict__[_AROUND] = every
        model.__dict__["save_pretrained"] = partial(save_model, model)


def save_model(
    model: Any,
    save_directory: str | Path,
    is_main_process: bool = True,
    *args: Any,
    push_to_hub: bool = False,
    **options: Any,
) -> None:
    """Save a model as its class does, in the contexts of `save_with`.

    The arguments are those of `save_pretrained`.
    """
    if push_to_hub:  # the class would upload only what it has written itself
        _save_and_push(model, save_directory, is_main_process, options)
        return
    alone = getattr(model, "_hf_peft_config_loaded", False)  # only adapters are saved then
    with ExitStack() as stack:
        for around in model.__dict__[_AROUND].values() if is_main_process and not alone else ():
            stack.enter_context(around(model, Path(save_directory)))
        type(model).save_pretrained(model, save_directory, is_main_process, *args, **options)


def _save_and_push(
    model: Any, save_directory: str | Path, is_main_process: bool, options: dict[str, Any]
) -> None:
    repo_id = options.pop("repo_id", Path(save_directory).name)
    saving = inspect.signature(type(model).save_pretrained).parameters
    pushing = inspect.signature(model.push_to_hub).parameters
    own = {name: value for name, value in options.items() if name in saving}
    model.save_pretrained(save_directory, is_main_process, **own)
    if is_main_process:
        model.push_to_hub(repo_id, **{n: v for n, v in options.items() if n in pushing})
