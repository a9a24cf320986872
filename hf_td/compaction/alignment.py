"""Heads that a generation config calls by their numbers, as Whisper's does for its timestamps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_td.anatomy import Block, Holder

logger = logging.getLogger(__name__)

# The part of a decoder layer that the numbers are of.
_PART = ".encoder_attn"


def renumber_heads(model: Any, kept: Mapping[Holder, Tensor]) -> None:
    """Let `generation_config.alignment_heads` name the heads that it named before the cut.

    Args:
        model: a compact model; where its generation config names no heads, nothing happens.
        kept: of each block the units that stayed, sorted.
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
    left = [
        [layer, places[layer].index(head) if layer in places else head]
        for layer, head in named
        if layer not in places or head in places[layer]
    ]
    if len(left) < len(named):
        logger.warning(
            "%d of the %d heads that timestamps of tokens are read from are gone",
            len(named) - len(left),
            len(named),
        )
    if left:
        config.alignment_heads = left
    else:
        del config.alignment_heads  # so that who asks for timestamps is told
