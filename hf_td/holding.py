"""Holds still what is kept, in updates that drop nothing.

Such updates keep the whole network good. If they moved what the other updates keep, they would
spoil what the sparse network has learned; so only what the others drop learns in them, against the
rest as it is. Not in the paper; it is the dense phase of dense-sparse-dense training (Han et al.,
arXiv 1607.04381), spread over the run, with the sparse part at rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hf_td.sites import Site


def hold(kept: Iterable[tuple[Site, Tensor]]) -> list[RemovableHandle]:
    """Let the gradients of what is kept be zero until the handles are removed.

    Weight decay and momentum still move it. Gradients are changed before they are accumulated, and
    so before processes exchange them.

    Args:
        kept: sites, and of each a boolean mask of the shape that it ranks.
    """
    held: dict[Tensor, Tensor] = {}
    for site, mask in kept:
        for parameter, part in site.slices(mask):
            held[parameter] = held[parameter] | part if parameter in held else part
    return [
        parameter.register_hook(partial(_without, part))
        for parameter, part in held.items()
        if parameter.requires_grad
    ]


def _without(part: Tensor, gradient: Tensor) -> Tensor:
    return gradient.masked_fill(part, 0)
