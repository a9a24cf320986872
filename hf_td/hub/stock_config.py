"""Expresses the widths of a compact model in the fields of its stock config, if it has them.

The name of a field proves nothing. A stock model is built from the changed config on the meta
device, and its shapes decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedConfig

from hf_td.anatomy import Block, Holder, Mixture, Part, find_layer, parameter_names
from hf_td.modules.stock_models import Fields, Path, attempt, build_empty, stock_config

# Fields that may hold a feed-forward width, or its ratio to the hidden size.
RATIO_FIELDS = ("mlp_ratio",)
WIDTH_FIELDS = (
    "intermediate_size",
    "moe_intermediate_size",
    "hidden_dim",
    "n_inner",
    "d_ff",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_hidden_size",
    *RATIO_FIELDS,
)
# Fields that may hold the number of experts.
EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# Fields that may hold a number of heads, of KV heads, or the size of a head.
HEAD_FIELDS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_decoder_heads")
KV_HEAD_FIELDS = ("num_key_value_heads", "num_kv_heads")
HEAD_SIZE_FIELDS = ("head_dim", "d_kv")

# Numbers of units by block or mixture.
Units = dict[Holder, int]

_MARGIN = 1e-3  # of a neuron: above rounding, and far below one where hidden sizes differ


def express(
    model: Any, blocks: Iterable[Holder], wanted: Mapping[Holder, int]
) -> tuple[Any, Units]:
    """Find the stock config whose numbers of units are closest to the wanted ones from above.

    Args:
        model: the full model, whose config is not changed.
        blocks: all blocks and mixtures of its reading.
        wanted: the number of units that each block needs.

    Returns:
        The config, and the number of units that each block has in a stock model of this config.
        It is never lower than wanted, and the full number where no field expresses a lower one.
    """
    blocks = list(blocks)
    config = stock_config(model.config, {})
    stock = build_empty(model, config)
    full = {block: _width(stock, block) for block in blocks if block in wanted}
    fields: dict[Path, Any] = {}
    for tower in _towers(model, full):
        fields |= _widths(model, config, tower, "feed_forward", wanted, full)
        fields |= _widths(model, config, tower, "experts", wanted, full)
        fields |= _heads(model, config, tower, wanted, full)
    config = stock_config(config, fields)
    return config, units_of(build_empty(model, config), blocks)


def units_of(stock: nn.Module, blocks: Iterable[Holder]) -> Units:
    """Return the number of units that each block has in a model of the same class."""
    # The anatomy does not know the parameters of a mixture with an obstacle.
    known = [block for block in blocks if isinstance(block, Block) or block.obstacle is None]
    return {block: _width(stock, block) // _width_of_unit(block) for block in known}


def _width_of_unit(block: Holder) -> int:
    return 1 if isinstance(block, Mixture) else block.consumer.features.shape[1]


def unexpressed(model: nn.Module, blocks: Iterable[Holder], config: Any) -> list[str]:
    """List the parameters whose shape differs from the stock model's and belongs to no block.

    For example, the anatomy reads no block in a layer of a compact model with a single unit left.
    """
    readable = {name for b in blocks if b.obstacle is None for name in _parameters(model, b)}
    stock = dict(build_empty(model, config).named_parameters(remove_duplicate=False))
    return [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name not in readable and parameter.shape != stock[name].shape
    ]


def _parameters(model: nn.Module, block: Holder) -> list[str]:
    """List the parameters that become smaller with fewer units."""
    if isinstance(block, Mixture):
        return [piece.parameter for piece in block.slices]
    own = [name for module in block.modules for name in parameter_names(model, module)]
    return [*own, *(companion.parameter for companion in block.companions)]


def _width(model: nn.Module, block: Holder) -> int:
    if isinstance(block, Mixture):
        return model.get_parameter(block.slices[0].parameter).shape[block.slices[0].dim]
    return find_layer(model, block.consumer.module).weight.shape[block.consumer.feature_dim(model)]


@dataclass(frozen=True)
class Tower:
    """A part of a model with a config of its own: the model's config, or one nested in it.

    Attributes:
        path: of the config within the model's, such as `("text_config",)`; () for the model's own.
        config: that config.
        blocks: the blocks that are built from the config.
    """

    path: Path
    config: Any
    blocks: list[Holder]

    def of(self, part: Part | Literal["experts"]) -> list[Holder]:
        """Return its attention blocks, its feed-forward blocks or its mixtures."""
        return [block for block in self.blocks if block.part == part]

    def placed(self, fields: Mapping[str, Any]) -> Fields:
        """Return fields of its config by their paths in the model's config."""
        return {(*self.path, name): value for name, value in fields.items()}


def _towers(model: Any, blocks: Iterable[Holder]) -> list[Tower]:
    """Group the blocks by the config of the innermost module around each.

    In CLIP, for example, `text_model` has `config.text_config`.
    """
    paths = _paths(model.config)
    owners = {
        f"{name}.": module.config
        for name, module in model.named_modules()
        if name and id(getattr(module, "config", None)) in paths
    }
    towers: dict[Path, Tower] = {}
    for block in blocks:
        place = block.experts if isinstance(block, Mixture) else block.consumer.module
        around = [name for name in owners if place.startswith(name)]
        config = owners[max(around, key=len)] if around else model.config
        path = paths[id(config)]
        towers.setdefault(path, Tower(path, config, [])).blocks.append(block)
    return list(towers.values())


def _paths(config: Any, path: Path = ()) -> dict[int, Path]:
    """Return the paths of a config and of all configs nested in it, by `id`."""
    found = {id(config): path}
    for name, nested in vars(config).items():
        if isinstance(nested, PreTrainedConfig):
            found |= _paths(nested, (*path, name))
    return found


def _widths(
    model: nn.Module,
    config: Any,
    tower: Tower,
    part: Literal["feed_forward", "experts"],
    wanted: Mapping[Holder, int],
    full: Mapping[Holder, int],
) -> Fields:
    """Return the fields that express widths of a part, each for the widest block it controls."""
    own = {block: full[block] for block in tower.of(part)}
    fields: dict[str, Any] = {}
    for name in EXPERT_FIELDS if part == "experts" else WIDTH_FIELDS:
        if own and hasattr(tower.config, name):
            controlled = _controlled(model, config, tower, name, own)
            needed = [(wanted[block], own[block]) for block in controlled]
            fields |= {name: _field_value(tower.config, name, needed)} if needed else {}
    return tower.placed(fields)


def _controlled(
    model: nn.Module, config: Any, tower: Tower, name: str, full: Units
) -> list[Holder]:
    """Return the blocks whose width doubles with the field.

    The field holds the width of the first block, or the ratio of every width to a hidden size.
    """
    first = next(iter(full.values()))
    doubled = {b: 2 * (width if name in RATIO_FIELDS else first) for b, width in full.items()}
    value = _field_value(tower.config, name, [(2 * first, first)])
    trial = attempt(model, config, tower.placed({name: value}))
    return [] if trial is None else [b for b in full if _width(trial, b) == doubled[b]]


def _field_value(config: Any, name: str, needed: Iterable[tuple[int, int]]) -> int | float:
    """Return the least value of a field for pairs of needed and full widths."""
    if name not in RATIO_FIELDS:
        return max(width for width, _ in needed)
    before = getattr(config, name)
    if isinstance(before, int):  # a strict config refuses a fraction here
        return max(ceil(width * before / full) for width, full in needed)
    # int(hidden * ratio) must be the width, whatever rounding does.
    return max((width + _MARGIN) * before / full for width, full in needed)


def _heads(
    model: nn.Module,
    config: Any,
    tower: Tower,
    wanted: Mapping[Holder, int],
    full: Mapping[Holder, int],
) -> Fields:
    """Return the fields that express the number of heads at an unchanged head size, if any do."""
    blocks = [block for block in tower.of("attention") if isinstance(block, Block)]
    if not blocks or len({block.units for block in blocks}) > 1:
        return {}
    per_unit = blocks[0].consumer.features.shape[1]
    every = full[blocks[0]] // per_unit
    for units in range(max(wanted[block] for block in blocks), every):
        fields = tower.placed(_head_fields(tower.config, blocks[0], units))
        trial = attempt(model, config, fields)
        if trial is not None and all(_width(trial, b) == units * per_unit for b in blocks):
            return fields
    return {}


def _head_fields(config: Any, block: Block, units: int) -> dict[str, int]:
    rows = {p.role: p.features.shape[1] for p in block.producers}
    queries = units * rows["q"] // rows["k"]
    fields = {name: queries for name in HEAD_FIELDS if hasattr(config, name)}
    fields |= {name: units for name in KV_HEAD_FIELDS if hasattr(config, name)}
    sizes = [name for name in HEAD_SIZE_FIELDS if hasattr(config, name)] or ["head_dim"]
    return fields | {name: rows["k"] for name in sizes if _can_be_set(config, name)}


def _can_be_set(config: Any, name: str) -> bool:
    """Return False for a derived field: Falcon computes the size of a head from other fields."""
    derived = getattr(type(config), name, None)
    return not (isinstance(derived, property) and derived.fset is None)
