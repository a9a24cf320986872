"""Renumbers the heads that a generation config names, as Whisper's does for timestamps.

They are pairs of a layer of the decoder and a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hf_td.anatomy import Block, Holder

logger = logging.getLogger(__name__)

# The part of a decoder layer whose heads are numbered.
_PART = ".encoder_attn"
# The stack whose layers are numbered.
_STACK = "decoder.layers"


def renumber_heads(model: Any, kept: Mapping[Holder, Tensor]) -> None:
    """Make `generation_config.alignment_heads` name the heads that it named before the cut.

    Args:
        model: a compact model; a no-op if its generation config names no heads.
        kept: the units of each block that stayed, sorted.
    """
    config: Any = getattr(model, "generation_config", None)
    named = getattr(config, "alignment_heads", None)
    if not named:
        return
    places = {
        block.layer: units.tolist()
        for block, units in kept.items()
        if isinstance(block, Block) and block.name.endswith(_PART)
    }
    remaining = [
        [layer, places[layer].index(head) if layer in places else head]
        for layer, head in named
        if layer not in places or head in places[layer]
    ]
    _name(config, remaining)


def renumber_layers(model: Any, gone: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Make `generation_config.alignment_heads` name the layers that it named before.

    Args:
        model: a model from whose stacks layers were taken out.
        gone: indices of these layers, by dotted name of the stack.

    Returns:
        A function that undoes it.
    """
    config: Any = getattr(model, "generation_config", None)
    named = getattr(config, "alignment_heads", None)
    removed = next((gone[name] for name in gone if name.endswith(_STACK)), ())
    if not named or not removed:
        return lambda: None
    _name(
        config,
        [[at - sum(i < at for i in removed), head] for at, head in named if at not in removed],
    )
    return lambda: setattr(config, "alignment_heads", named)


def _name(config: Any, remaining: list[list[int]]) -> None:
    """Set the heads that are left, and warn of those that are not."""
    named = config.alignment_heads
    if len(remaining) < len(named):
        logger.warning(
            "%d of the %d heads that timestamps of tokens are read from were taken out",
            len(named) - len(remaining),
            len(named),
        )
    if remaining:
        config.alignment_heads = remaining
    else:
        del config.alignment_heads  # asking for timestamps is then an error
