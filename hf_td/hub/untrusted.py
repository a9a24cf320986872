"""Builds the model of a config.json that anybody may have written, within limits set before.

The config is data. Its counts are bounded by what the weights beside it hold, before transformers
reads it. The model is then built without storage, and stopped when it has far more modules than the
weights have tensors. What it would allocate is known by then, and is compared with the weights and
the limit. Only after that is the model built for real. No code of the folder is run, and nothing is
downloaded.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from hf_td.files import read_json_object
from hf_td.modules.compact_layout import LAYOUT_KEY
from hf_td.modules.compact_shapes import QUANT_METHODS, CompactLayout, apply_layout
from hf_td.modules.limits import HARMLESS, check_counts
from hf_td.modules.stock_models import stock_class

# The most bytes of a JSON file. One of a model with 20,000 labels takes a hundredth of that.
JSON_LIMIT = 16 << 20
# Modules for each tensor: dropouts, activations and lists have none.
_MODULES = 8
_FEW_MODULES = 1 << 10

# Characters of a name in a message.
_LONG = 200


@dataclass(frozen=True)
class Held:
    """A tensor of the weights: its shape and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@contextmanager
def as_value_errors(what: str) -> Iterator[None]:
    """Raise every error of the block as a ValueError that begins with `what`.

    Only for code of others that is given values which anybody may have written.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(what):
            raise
        raise ValueError(f"{what}: {type(error).__name__}: {str(error)[:500]}") from error


def check_config(folder: Path, held: Mapping[str, Held], limit: int) -> tuple[Any, Any]:
    """Return the config of a folder and its model class, once they fit the weights.

    Args:
        folder: with a config.json.
        held: the weights, by name.
        limit: most bytes that the weights may take, and most that the buffers may take which are
            not saved.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: the config cannot be read, names no model class of transformers, or asks for
            code; or its model has other tensors than the weights, or takes more than `limit`.
    """
    path = folder / "config.json"
    most = _largest_count(held)
    check_counts(read_json_object(path, most=JSON_LIMIT), path, most, most_layers=most)
    what = f"{path} describes no model that can be built"
    with as_value_errors(what):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model_class = _model_class(config, path)
    known = {tensor.dtype for tensor in held.values() if tensor.dtype.is_floating_point}
    if not isinstance(config.dtype, torch.dtype) or config.dtype not in known:
        raise ValueError(f"dtype in {path} should be one of {known}, got {config.dtype!r}")
    with as_value_errors(what):
        model = _build_empty(model_class, config, _FEW_MODULES + _MODULES * len(held))
    _check_tensors(model, held, path)
    _check_size(model, held, limit, path)
    return config, model_class


def _largest_count(held: Mapping[str, Held]) -> int:
    dims = [dim for tensor in held.values() for dim in tensor.shape]
    return max([HARMLESS, len(held), *dims])


def _model_class(config: Any, path: Path) -> type[PreTrainedModel]:
    names = config.architectures
    name = names[0] if isinstance(names, list) and names else names
    found = stock_class([name])
    if found is None:
        raise ValueError(f"{path} names {name!r}, which is no model class of transformers")
    if not isinstance(config, getattr(found, "config_class", None) or ()):
        raise ValueError(f"{path} names {name}, which has no config of {config.model_type}")
    return found


def _build_empty(model_class: Any, config: Any, most_modules: int) -> nn.Module:
    """Build a model on the meta device, in the shapes of its layout if it is compact."""
    values = getattr(config, LAYOUT_KEY, None)
    layout = None
    if values is not None:
        values = values if isinstance(values, dict) else values.to_dict()
        if values.get("quant_method") not in QUANT_METHODS:
            raise ValueError(f"{LAYOUT_KEY} is {reprlib.repr(values)}, and archives have none")
        layout = CompactLayout.from_dict(values)
    with torch.device("meta"), no_init_weights(), _at_most(most_modules):
        model = model_class(config)
    model.tie_weights()
    if layout is not None:
        apply_layout(model, layout.for_model(model))
    return model


@contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Raise ValueError in the block when more modules than this are registered."""
    left = [modules]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(f"it has more than {modules} modules, and far fewer tensors")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_tensors(model: nn.Module, held: Mapping[str, Held], path: Path) -> None:
    """Raise ValueError unless the weights are exactly those of the model."""
    wanted = model.state_dict()
    for what, names in (
        ("has no tensor", wanted.keys() - held.keys()),
        ("has a tensor too many,", held.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(
                f"the archive beside {path} {what} {min(names)[:_LONG]!r}, of {len(names)}; "
                f"the tensors of {type(model).__name__} were expected"
            )
    for name, tensor in wanted.items():
        found = held[name]
        same_kind = found.dtype.is_floating_point == tensor.dtype.is_floating_point
        if found.shape != tuple(tensor.shape) or not same_kind or found.dtype.is_complex:
            raise ValueError(
                f"{name} in the archive beside {path} should be like {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, got {found.dtype} of shape {found.shape}"
            )


def _check_size(model: nn.Module, held: Mapping[str, Held], limit: int, path: Path) -> None:
    """Raise ValueError if the tensors exceed the limit, or the buffers that are not saved do."""
    every = dict((*model.named_parameters(), *model.named_buffers()))
    saved = sum(t.numel() * held[n].dtype.itemsize for n, t in every.items() if n in held)
    unsaved = sum(t.nbytes for name, t in every.items() if name not in held)
    if max(saved, unsaved) > limit:
        raise ValueError(
            f"the model of {path} should take at most limit={limit} bytes, got {saved} for its "
            f"weights and {unsaved} for its other tables"
        )
