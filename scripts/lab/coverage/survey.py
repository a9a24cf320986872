"""Take a tiny twin of a model type the whole way: read, patch, train, prune, compact, compare.

A wrong reading shows as a mismatch: the outputs of the compact twin differ from those of the masked
one. A refusal, with its reason, is no mismatch.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import hf_td
from hf_td.anatomy import (
    Anatomy,
    Block,
    Holder,
    Stack,
    linear_layers,
    probe_inputs,
    read_anatomy,
    tensors_in,
)
from hf_td.compaction import compact_model
from hf_td.hub.stock_config import express
from hf_td.modules.routing import Router
from hf_td.modules.stock_models import REFUSALS
from hf_td.patching.patch import anneal, find_patch, patch_model, unpatch_model
from hf_td.pruning import prune_model
from lab.coverage.twins import RECIPES, Recipe, shrunk

MOST_PARAMETERS = 300_000_000
SAME_FAILURES = 6
SPARSITY = 0.5
SEED = 0
# The rooms whose errors are their own; other rooms also pass on errors of stock models.
_ROOMS = [Path(hf_td.__file__).parent / n for n in ("kernels", "modules", "ranking", "patching")]

Record = dict[str, Any]


@dataclass(frozen=True)
class Twin:
    """A tiny model of a type, its reading, and the recipe that shrank its config."""

    model: Any
    anatomy: Anatomy
    recipe: Recipe


def survey_type(model_type: str) -> Record:
    """Return the results of one registered model type, as JSON values.

    `outcome` is `not built`, `no projections`, `refused` or `patched`, or, for a type that went the
    whole way, `passed` or `mismatch`. `reason` is that of all outcomes but `passed`.
    """
    record: Record = {"type": model_type, "outcome": "not built"}
    try:
        config = CONFIG_MAPPING[model_type]()
        with torch.device("meta"):
            stock = AutoModel.from_config(config)
    except Exception as error:
        return {**record, "reason": first_line(error)}
    record |= {"class": type(stock).__name__, "projections": has_projections(stock)}
    if not record["projections"]:
        return {**record, "outcome": "no projections"}
    del stock
    record["outcome"] = "refused"
    try:
        twin = make_twin(config, AutoModel.from_config)
    except ValueError as error:
        return {**record, "reason": str(error)}
    return record | _describe(twin) | _go_the_whole_way(twin)


def has_projections(model: nn.Module) -> bool:
    """Return True for a model with attention, or with a linear layer in a numbered layer."""
    in_layers = any(re.search(r"\.\d+(\.|$)", name) for name in linear_layers(model))
    return in_layers or any("Attention" in type(m).__name__ for m in model.modules())


def make_twin(config: Any, build: Callable[[Any], Any]) -> Twin:
    """Return the first readable twin of those that the recipes make.

    Args:
        config: the default config of a type.
        build: makes a model from a config.

    Raises:
        ValueError: no twin is readable; the message is the most common failure.
    """
    failures: list[str] = []
    for recipe in RECIPES:
        try:
            model = _tiny(shrunk(copy.deepcopy(config), recipe), build)
            return Twin(model, read_anatomy(model), recipe)
        except Exception as error:
            failures.append(first_line(error))
        if failures.count(failures[-1]) >= SAME_FAILURES:
            break
    raise ValueError(Counter(failures).most_common(1)[0][0])


def _tiny(config: Any, build: Callable[[Any], Any]) -> Any:
    with torch.device("meta"):
        size = sum(p.numel() for p in build(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError("too big for a CPU")
    torch.manual_seed(SEED)
    model = build(config).eval()
    if getattr(model.config, "_experts_implementation", None):
        model.set_experts_implementation("eager")  # other implementations lack float64
    with torch.no_grad():  # zeros and ones would hide a mistake
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def first_line(error: Exception) -> str:
    """Return the first line of an error, or of the error of a failed forward in it."""
    text = str(error).strip()
    text = text.rpartition("a forward failed: ")[2] or text
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0]}"[:200]


# --- the reading ---


def _describe(twin: Twin) -> Record:
    model, anatomy = twin.model, twin.anatomy
    inside = [n for n in linear_layers(model) if re.search(r"(^|\.)\d+(\.|$)", n)]
    outside = {*anatomy.unclaimed}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "divisor": twin.recipe.divisor,
        "fewer_heads": twin.recipe.heads,
        "attention": _counted(_head_geometry(b) for b in anatomy.blocks if b.part == "attention"),
        "feed_forward": _counted(_width(b) for b in anatomy.blocks if b.part == "feed_forward"),
        "layouts": sorted({type(model.get_submodule(n)).__name__ for n in inside}),
        "fused": any(len(set(b.modules)) < len(b.projections) for b in anatomy.blocks),
        "blocks": len(anatomy.blocks),
        "droppable": sum(b.obstacle is None for b in anatomy.blocks),
        "layers": len(inside),
        "layers_in_blocks": sum(name not in outside for name in inside),
        "obstacles": sorted({_pattern(b.obstacle) for b in anatomy.blocks if b.obstacle}),
        "left_out": sorted({_pattern(name) for name in inside if name in outside}),
        "unread": [_pattern(text)[:160] for text in anatomy.unread],
    }


def _counted(descriptions: Iterator[str]) -> list[str]:
    return [f"{times} x {text}" for text, times in Counter(descriptions).items()]


def _head_geometry(block: Block) -> str:
    rows = {p.role: p.features.shape[1] for p in block.producers}
    groups = rows["q"] // rows["k"] if rows["q"] % rows["k"] == 0 else 1
    size = block.consumer.features.shape[1] // groups
    return f"{block.units * groups} heads of {size} in {block.units} units"


def _width(block: Block) -> str:
    gated = any(p.role == "gate" for p in block.producers)
    return f"{block.units} {'gated ' if gated else ''}neurons"


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$|:)", "#", name)


# --- the whole way ---


def _go_the_whole_way(twin: Twin) -> Record:
    """Patch, update, unpatch, prune, compact and compare a twin; stop at the first refusal."""
    record: Record = {"weight": False, "unit": False, "form": None, "outcome": "refused"}
    exclude = [b.consumer.module for b in twin.anatomy.blocks if b.obstacle]
    record |= _patched(twin.model, "weight", [])
    if not record["weight"]:
        return record
    record |= {"outcome": "patched"} | _patched(twin.model, "unit", exclude)
    if not record["unit"]:
        return record
    return record | {"form": _form(twin)} | _compacted(twin, exclude)


def _patched(model: Any, level: Any, exclude: list[str]) -> Record:
    """Patch a model, make one update, and unpatch it."""
    before = {name: id(p) for name, p in model.named_parameters()}
    classes = {name: type(m) for name, m in model.named_modules()}
    try:
        patch_model(model, level=level, exclude=exclude, targeting=0.9, drop_rate=0.5)
    except (ValueError, TypeError) as error:
        return {level: False, "reason": first_line(error)}
    try:
        update(model)
    except Exception as error:
        return {level: False, "reason": f"training: {first_line(error)}"} | blame(error)
    finally:
        unpatch_model(model)
        model.eval()
    after = {name: id(p) for name, p in model.named_parameters()}
    if before != after or classes != {name: type(m) for name, m in model.named_modules()}:
        return {level: False, "outcome": "mismatch", "reason": "unpatching did not restore it"}
    return {level: True}


def update(model: Any) -> None:
    """Make one update of a patched model on example inputs: anneal, forward, backward, step.

    Only the targeted layers are in training mode: in it, some models need labels or longer inputs.
    """
    patch = find_patch(model)
    assert patch is not None
    for site in patch.sites:
        module = site.layer.module if isinstance(site.layer, (Stack, Router)) else site.layer
        module.train()
    anneal(model, progress=0.5, update=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for path in read_anatomy(model).runs:
        module = model.get_submodule(path)
        outputs = module(**probe_inputs(module))
        floating = [t for t in tensors_in(outputs) if t.is_floating_point() and t.requires_grad]
        torch.stack([t.float().mean() for t in floating]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _compacted(twin: Twin, exclude: list[str]) -> Record:
    model = twin.model
    try:
        prune_model(model, SPARSITY, level="unit", exclude=exclude)
        compact_model(model, multiple_of=1)
    except Exception as error:
        text = first_line(error)
        wrong = "differs from the masked" in str(error)
        return {"outcome": "mismatch" if wrong else "patched", "reason": text} | blame(error)
    return {"outcome": "passed"}


def blame(error: Exception) -> Record:
    """Return a mismatch for an error that the library did not raise as a refusal."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = any(room in file.parents for room in _ROOMS for file in files)
    return {"outcome": "mismatch"} if ours and not isinstance(error, ValueError) else {}


def _form(twin: Twin) -> str:
    """Return the form in which a uniform half of the units can be exported."""
    blocks = [b for b in twin.anatomy.blocks if b.obstacle is None]
    wanted: dict[Holder, int] = {b: max(1, b.units - int(b.units * SPARSITY)) for b in blocks}
    try:
        _, units = express(twin.model, twin.anatomy.blocks, wanted)
    except REFUSALS as error:
        return f"compact ({first_line(error)})"
    return "stock" if all(units[b] == wanted[b] for b in blocks) else "padded"
