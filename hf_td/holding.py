"""Holds still what the sparse network is made of, in updates that drop nothing.

Such updates keep the whole network good. If they moved what the other updates keep, they would
spoil what the sparse network has learned; so only what the others drop learns in them, against the
rest as it is. Not in the paper; it is the dense phase of dense-sparse-dense training (Han et al.,
arXiv 1607.04381), spread over the run, with the sparse network at rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_td.sites import Slice


def hold(model: nn.Module, learning: Iterable[Slice]) -> list[RemovableHandle]:
    """Let the gradients of all but some parts of parameters be zero until the handles are removed.

    Weight decay and momentum still move the rest. Gradients are changed before they are
    accumulated, and so before processes exchange them.

    Args:
        model: whose parameters are held; all learn where none of the parts can.
        learning: the parts that learn.
    """
    parts: dict[Tensor, Tensor] = {}
    for parameter, part in learning:
        if parameter.requires_grad:
            known = parts.get(parameter)
            parts[parameter] = part if known is None else known | part
    trained = [p for p in model.parameters() if p.requires_grad and parts]
    held = {parameter: ~part for parameter, part in parts.items()}
    return [p.register_hook(partial(_without, held.get(p))) for p in trained]


def _without(held: Tensor | None, gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient) if held is None else gradient.masked_fill(held, 0)
