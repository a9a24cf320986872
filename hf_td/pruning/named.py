"""Prunes the units that the caller names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy, Block, read_stacks
from hf_td.anatomy.given import anatomy_of
from hf_td.config import TargetedDropoutConfig
from hf_td.modules.compact_layout import record_layout
from hf_td.modules.unsharing import unshare_config
from hf_td.pruning.layers import NamedLayers, as_indices, named_layers
from hf_td.pruning.report import PruningReport, count_sparsity
from hf_td.ranking.sites import LayerSite, UnitSite, layer_site, plan_sites
from hf_td.ranking.source import forget_source

# Kinds of units to the part of the model that has them.
_PARTS = {"heads": "attention", "neurons": "feed_forward"}
# The units to prune of each block: its number among the blocks of its part, or its name.
Named = Mapping[int | str, Iterable[int]]


@torch.no_grad()
def prune_units(
    model: nn.Module,
    units: Mapping[str, Named | NamedLayers],
    *,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> PruningReport:
    """Set these heads, neurons and layers to zero, in place.

    `prune_units(model, {"heads": {0: [1, 3]}, "neurons": {5: range(512)}})` prunes two heads of the
    first attention block and the first 512 neurons of the sixth feed-forward block. Blocks count
    from 0, in the order in which the model runs them; with grouped queries a head is a KV head
    together with its query heads. Where blocks are tied, as in T5, their units go together.

    `prune_units(model, {"layers": [5]})` prunes the sixth layer, attention and feed-forward
    together, and `{"layers": {"encoder": [1], "decoder": [2]}}` a layer of each stack. A pruned
    layer is passed by: its output is its input, also after `save_pretrained` and `from_pretrained`.
    `compact_model` and `export_model` take it out.

    Args:
        model: any model that can be patched; patched or not.
        units: `heads` and `neurons`, each with the numbers or names of blocks, and their units; and
            `layers`, with the indices of layers, or with the names of stacks and their indices.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.

    Returns:
        What is removed, by layer and in total.

    Raises:
        TypeError: units are not named as above, or are no integers.
        ValueError: there is no such kind, block, unit, stack or layer, it cannot be removed, or a
            weight is not finite.
    """
    if not isinstance(units, Mapping):
        raise TypeError(
            "units are a mapping from kinds to blocks and their units, such as "
            f"{{'heads': {{0: [1, 3]}}}}; got {units!r}"
        )
    anatomy = anatomy_of(model, anatomy, example_inputs)
    units = dict(units)
    layers = units.pop("layers", None)
    gone = [] if layers is None else _layer_sites(model, layers, example_inputs)
    named: dict[Block, Iterable[int]] = dict(_blocks_of(anatomy, units))
    config = TargetedDropoutConfig(level="unit")
    every = plan_sites(model, anatomy, config) if named else ()
    sites = [site for site in every if isinstance(site, UnitSite)]
    chosen: dict[int, Tensor] = {}
    for site in sites:
        if site.block in named:
            mask = chosen.setdefault(site.index, torch.zeros(site.ranked_shape, dtype=torch.bool))
            mask[..., _checked(site.block, named.pop(site.block))] = True
    if named:
        block = next(iter(named))
        raise ValueError(f"the units of {block.name} cannot be removed: {block.obstacle}")
    for site in sites:
        if site.index in chosen:
            site.remove(chosen[site.index].to(site.layer.weight.device))
    for site, indices in gone:
        site.remove(torch.zeros(site.ranked_shape, dtype=torch.bool).index_fill(0, indices, True))
    if gone:
        unshare_config(model)
        record_layout(model)
    if chosen or gone:
        forget_source(model)
    return count_sparsity(model, anatomy.holders)


def _layer_sites(
    model: nn.Module, layers: Any, example_inputs: Mapping[str, Any] | None
) -> list[tuple[LayerSite, Tensor]]:
    """Return the site of each stack that loses layers, with their indices."""
    stacks = read_stacks(model, example_inputs)
    wanted = named_layers(stacks, layers)
    sites = [layer_site(model, stack, 0) for stack in stacks if stack.name in wanted]
    return [(site, torch.tensor(wanted[site.name])) for site in sites if wanted[site.name]]


def _blocks_of(anatomy: Anatomy, units: Mapping[str, Any]) -> Iterator[tuple[Block, Iterable[int]]]:
    """Yield each named block with its units."""
    for kind, named in units.items():
        if kind not in _PARTS:
            raise ValueError(f"units are {', '.join(_PARTS)} or layers, got {kind!r}")
        blocks = [block for block in anatomy.blocks if block.part == _PARTS[kind]]
        if not isinstance(named, Mapping):
            raise TypeError(
                f"{kind} are named by their block, such as {{0: [1, 3]}}, got {named!r}"
            )
        for key, some in named.items():
            yield _find(blocks, key, kind), some


def _find(blocks: Sequence[Block], key: int | str, kind: str) -> Block:
    for number, block in enumerate(blocks):
        if key in (number, str(number), block.name):
            return block
    raise ValueError(
        f"there is no block {key!r} with {kind}: the model has {len(blocks)}, from 0 to "
        f"{len(blocks) - 1}, named {', '.join(block.name for block in blocks[:2])}, ..."
    )


def _checked(block: Block, units: Iterable[int]) -> list[int]:
    numbers = as_indices(block.name, units)
    wrong = next((n for n in numbers if not 0 <= n < block.units), None)
    if wrong is not None:
        raise ValueError(
            f"{block.name} has the units 0 to {block.units - 1}, so {wrong} cannot be pruned"
        )
    return numbers
