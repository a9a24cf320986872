"""Renumbers the heads that a generation config names, as Whisper's does for timestamps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_td.anatomy import Block, Holder

logger = logging.getLogger(__name__)

# The part of a decoder layer whose heads are numbered.
_PART = ".encoder_attn"


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
