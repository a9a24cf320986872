"""Limits of a config and of the model that it describes, checked before memory is taken.

This file imports nothing of hf_td: a saved model takes it along, see `hf_td.modules.compact_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

# Counts below this are harmless whatever is built from them.
HARMLESS = 1 << 16
# Each layer of a stack makes many modules, so there are fewer of these.
MOST_LAYERS = 1 << 12
# Bytes of a model for each byte of its files: weights of 16 bits are loaded in 32, and another head
# can be as large as the rest.
_GROWTH = 4
_FEW_BYTES = 256 << 20

# The layout of a compact model has checks of its own.
_LAYOUT = "quantization_config"
_COUNTS = re.compile(r"layer|depth|block|stage|expert|label|group|^num_|^n_")
# The sizes of tables are known from the tensors, and bases of angles are large.
_NO_COUNTS = re.compile(
    r"position|ctx|length|word|vocab|token|embd|embed|param|theta|_ids?$|_index$"
)
_LAYERS = re.compile(r"layers?$|^depths?$")
_CODE = re.compile(r"_implementation$")


def check_counts(
    values: Any,
    place: str | Path,
    most: int = HARMLESS,
    most_layers: int = MOST_LAYERS,
    key: str = "",
) -> None:
    """Refuse counts that are too large, and names of code, in the values of a config.

    A layout in it is not looked at.

    Args:
        values: the JSON value, or a value in it.
        place: the file, for the message.
        most: the largest count of anything but layers.
        most_layers: the largest number of layers.
        key: the name of the value.

    Raises:
        ValueError: the first such value.
    """
    if isinstance(values, Mapping):
        for name, value in values.items():
            if name != _LAYOUT:
                check_counts(value, place, most, most_layers, str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            check_counts(value, place, most, most_layers, key)
    elif isinstance(values, int | float) and _COUNTS.search(key) and not _NO_COUNTS.search(key):
        limit = most_layers if _LAYERS.search(key) else most
        if not values <= limit:
            raise ValueError(f"{key} in {place} should be at most {limit}, got {values:.6g}")
    elif isinstance(values, str) and _CODE.search(key) and "/" in values:
        raise ValueError(f"{key} in {place} should name no code on the Hub, got {values!r}")
    if key == "use_pretrained_backbone" and values:
        raise ValueError(f"{key} in {place} should be false: the weights are in the folder")


def check_growth(model: nn.Module, files: Iterable[str | Path] | None) -> None:
    """Refuse a model that is far larger than the files of its weights, before it has memory.

    Args:
        model: on the meta device.
        files: of the weights; None for weights that are in memory already.

    Raises:
        ValueError: the parameters and buffers would take more than four times the bytes of the
            files and 256 MiB.
    """
    if files is None:
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    there = sum(Path(file).stat().st_size for file in files)
    most = _GROWTH * there + _FEW_BYTES
    if wanted > most:
        largest = max(tensors.values(), key=lambda tensor: tensor.numel())
        raise ValueError(
            f"the config describes a {type(model).__name__} of {wanted} bytes, with a tensor of "
            f"shape {tuple(largest.shape)}. At most {most} were expected, since the weights in the "
            f"folder take {there}. Copy or download the folder again"
        )
