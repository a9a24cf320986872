"""Shrink the config of any model type by general rules, with no list of families.

A twin has the number of heads of the original, in the same groups, and all of its kinds of layers.
Every width is divided by one number, so sizes that a type derives from its widths still fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Names of numbers of layers in configs; a list has one number for each stage.
_DEPTH = re.compile(
    r"(^|_)(n_?layers?|layers|num_layers|depths?|num_blocks|n_blocks|blocks_per_stage)$"
    r"|num_[a-z_]*layers$|^layers$|resampler_depth$|num_block_repeats$"
)
_WIDTH = re.compile(
    r"size|dim|width|channel|d_model|d_ff|d_kv|d_head|d_inner|n_embd|n_inner|rank|filters|units|"
    r"planes|hidden|embed|mlp|section|feats|axes|groups$"
)
# Names that match `_WIDTH` and are no widths: positions, pixels, words, counts and ids.
_NO_WIDTH = re.compile(
    r"vocab|image|img|patch|kernel|position(?!.*dim)|window|codebook_size|chunk|max|^num_(?!.*groups$)|token|batch|"
    r"grid|crop|bucket|rate|stride|_id$|_ids$|ratio|layers|frame|context|block_size|mel|input_size|"
    r"in_chans|num_channels|dimension$|expand|dropout|seed|attention_window|pool(?!er_hidden)|factor|length|"
    r"layer_id|step|epsilon|theta|base$|feat_size"
)
_ID = re.compile(r"_ids?$|_token_index$")
# Layers that a backbone returns; a config without them fills them in.
_OUTPUTS = ("out_features", "out_indices", "_out_features", "_out_indices", "stage_names")
_PIXELS = re.compile(r"^(image|img|input|pretrain_image|crop|spec|max_image)_size$")
_POSITIONS = re.compile(r"^max_(source|target)_positions$|^chunk_length$|^num_frames$")
_HEADS = re.compile(r"(^|_)heads?$")
_HEAD_SIZE = re.compile(r"head_dim|head_size|d_kv|d_head|section|kv_channels|rotary_dim")
_EXPERTS = re.compile(r"num_(local_|routed_)?experts$|n_routed_experts$|moe_num_experts$")
_CHOSEN = re.compile(r"num_experts_per_tok(en)?$|moe_topk$|moe_k$|experts_top_k$|top_k_experts$")
_GROUPS = re.compile(r"^(n_group|topk_group|num_expert_group|n_groups_moe|num_limited_groups)$")

LEAST_LAYERS, MOST_LAYERS = 2, 6


@dataclass(frozen=True)
class Recipe:
    """Rules for shrinking a config.

    Attributes:
        divisor: of every width.
        patches: height and width of images and spectrograms, in patches; None keeps them.
        experts: largest number of experts of a mixture; None keeps all.
        words: largest size of a vocabulary, inside which ids of special tokens are moved; None
            keeps all words.
        depth: reduce the number of layers.
        heads: reduce the number of heads, and keep their size.
    """

    divisor: int
    patches: int | None = None
    experts: int | None = None
    words: int | None = 1024
    depth: bool = True
    heads: bool = False


# From the smallest twins to the least changed; the first that runs is used.
RECIPES = (
    Recipe(16, patches=2, experts=4),
    Recipe(16, patches=2, experts=4, heads=True),
    Recipe(16, patches=8, experts=4),
    Recipe(16, experts=4),
    *(Recipe(divisor, patches, experts=4) for divisor in (8, 4) for patches in (2, None)),
    *(Recipe(8, patches, experts=4, heads=True) for patches in (2, None)),
    *(Recipe(divisor) for divisor in (8, 2, 1)),
    *(Recipe(divisor, experts=8, words=None) for divisor in (16, 4)),
    Recipe(4, words=None, depth=False),
    Recipe(1, words=None, depth=False),
)


def shrunk(config: Any, recipe: Recipe) -> Any:
    """Return a smaller config of the same class, which is validated again.

    Raises:
        Exception: the class refuses the sizes, in its own way.
    """
    values = config.to_dict()
    if recipe.words is not None:
        values = _fewer_words(values, recipe.words, {})
    return type(config).from_dict(_shrink(values, recipe))


def _fewer_words(value: Any, words: int, moved: dict[int, int], name: str = "") -> Any:
    """Cap every vocabulary, and move ids beyond its end to distinct ids inside."""
    if isinstance(value, Mapping):
        return {k: _fewer_words(v, words, moved, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and _ID.search(name):
        return type(value)(_fewer_words(v, words, moved, name) for v in value)
    if type(value) is not int or value < words:
        return value
    if name.endswith("vocab_size"):
        return words
    return moved.setdefault(value, words - 1 - len(moved)) if _ID.search(name) else value


def _shrink(values: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    before, after = _depth(values) if recipe.depth else (0, 0)
    small: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            small[name] = value  # a table whose keys are numbers
            continue
        if before and name in _OUTPUTS:
            continue
        if isinstance(value, Mapping):
            # Settings of removed layers are removed too.
            removed = [k for k in value if str(k).isdigit() and before and int(k) >= after]
            small[name] = _shrink({k: v for k, v in value.items() if k not in removed}, recipe)
        elif isinstance(value, (list, tuple)):
            small[name] = _shrink_list(name, value, recipe, before, after, values)
        elif type(value) is int:
            small[name] = _shrink_number(name, value, recipe, before, after, values)
        else:
            small[name] = value
    return small


def _shrink_number(
    name: str, value: int, recipe: Recipe, before: int, after: int, values: Mapping[str, Any]
) -> int:
    if recipe.depth and _is_depth(name, value, values):
        return after if before and value == before else min(value, LEAST_LAYERS)
    if recipe.patches is not None:
        if _PIXELS.search(name):
            return min(value, recipe.patches * _patch(values))
        if _POSITIONS.search(name):
            return min(value, 32)
    if recipe.experts is not None:
        if _EXPERTS.search(name):
            return min(value, recipe.experts)
        if _CHOSEN.search(name):
            return min(value, 2)
        if _GROUPS.search(name):
            return 1
    if recipe.heads and _HEADS.search(name):
        return max(min(value, 2), value // recipe.divisor)
    if recipe.heads and _HEAD_SIZE.search(name):
        return value
    return _divided(name, value, recipe.divisor)


def _divided(name: str, value: int, divisor: int) -> int:
    is_width = _WIDTH.search(name) and not _NO_WIDTH.search(name)
    return value // divisor if is_width and value >= divisor and value % divisor == 0 else value


def _shrink_list(
    name: str,
    value: list[Any] | tuple[Any, ...],
    recipe: Recipe,
    before: int,
    after: int,
    values: Mapping[str, Any],
) -> list[Any] | tuple[Any, ...]:
    if value and all(isinstance(v, Mapping) for v in value):
        return [_shrink(v, recipe) for v in value]
    if recipe.depth and before and len(value) == before and before > MOST_LAYERS:
        return value[:after]
    if not value or not all(type(v) is int for v in value):
        return value
    if recipe.depth and _DEPTH.search(name):
        return type(value)(min(v, 1) for v in value)
    if recipe.depth and re.search(r"index|idx|_layers$|layer_ids|_indices", name) and before:
        kept = [v for v in value if v < after]
        return type(value)(kept or ([after - 1] if min(value) >= 0 else list(value)))
    if recipe.patches is not None and _PIXELS.search(name):
        return type(value)(min(v, recipe.patches * _patch(values)) for v in value)
    if recipe.heads and _HEAD_SIZE.search(name):
        return value
    if "section" in name:
        return _divided_together(value, recipe.divisor)
    return type(value)(_divided(name, v, recipe.divisor) for v in value)


def _divided_together(values: list[int] | tuple[int, ...], divisor: int) -> list[int]:
    """Divide the parts of one width such that their sum is divided exactly."""
    ends = [sum(values[: i + 1]) // divisor for i in range(len(values))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _patch(values: Mapping[str, Any]) -> int:
    size = values.get("patch_size", 16)
    if isinstance(size, (list, tuple)):
        size = max(v for v in size if isinstance(v, int))
    merged = values.get("spatial_merge_size", 1)
    return int(size or 16) * (merged if isinstance(merged, int) else 1)


def _depth(values: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of layers and that of the twin, which shows every kind of layer.

    Both are 0 for a config that names no number of layers.
    """
    names = [
        n
        for n, v in values.items()
        if type(v) is int and isinstance(n, str) and _is_depth(n, v, values)
    ]
    before = next((values[n] for n in _main_depths(names)), 0)
    kinds = [v for v in values.values() if isinstance(v, (list, tuple)) and len(v) == before > 1]
    needed = max((_prefix_of_all_kinds(v) for v in kinds), default=LEAST_LAYERS)
    return before, min(before, max(LEAST_LAYERS, min(needed, MOST_LAYERS)))


def _is_depth(name: str, value: int, values: Mapping[str, Any]) -> bool:
    """Return True for a number of layers, False for one of stages, which lists describe."""
    if not _DEPTH.search(name):
        return False
    if name in ("num_hidden_layers", "n_layer", "n_layers") and value > MOST_LAYERS:
        return True
    lists = [v for v in values.values() if isinstance(v, (list, tuple))]
    return not any(len(v) in (value, value + 1) for v in lists)


def _main_depths(names: list[str]) -> Iterator[str]:
    """Yield the names that most likely count the layers of the main part, then all names."""
    main = [n for n in names if n in ("num_hidden_layers", "n_layer", "n_layers", "num_layers")]
    yield from (*main, *names)


def _prefix_of_all_kinds(values: list[Any] | tuple[Any, ...]) -> int:
    """Return the length of the shortest beginning that has all kinds of values."""
    kinds = {repr(v) for v in values}
    if len(kinds) > len(values) // 2:
        return LEAST_LAYERS  # a number for each layer, not a kind
    seen: set[str] = set()
    for i, value in enumerate(values):
        seen.add(repr(value))
        if seen == kinds:
            return i + 1
    return len(values)
