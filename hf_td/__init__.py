"""hf_td makes Hugging Face Transformers small by targeted dropout."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_td._register import register_loader

__version__ = "0.1.0"

# Public name to the module that has it; loaded when first asked for, so that importing the
# package costs nothing and the tensor functions never import transformers.
_HOMES = {
    "Anatomy": "anatomy",
    "PruningReport": "pruning",
    "Schedule": "schedules",
    "TargetedDropoutArguments": "training",
    "TargetedDropoutCallback": "training",
    "TargetedDropoutConfig": "config",
    "TargetedDropoutSeq2SeqArguments": "training",
    "TargetedDropoutSeq2SeqTrainer": "training",
    "TargetedDropoutTrainer": "training",
    "AttentionBlocks": "anatomy",
    "FeedForwardBlocks": "anatomy",
    "anneal": "patching",
    "compact_model": "compaction",
    "export_model": "hub",
    "patch_model": "patching",
    "prune_model": "pruning",
    "pruning_curve": "analysis",
    "read_anatomy": "anatomy",
    "register_family": "anatomy",
    "unpatch_model": "patching",
}

if TYPE_CHECKING:
    from hf_td.analysis import pruning_curve as pruning_curve
    from hf_td.anatomy import Anatomy as Anatomy
    from hf_td.anatomy import AttentionBlocks as AttentionBlocks
    from hf_td.anatomy import FeedForwardBlocks as FeedForwardBlocks
    from hf_td.anatomy import read_anatomy as read_anatomy
    from hf_td.anatomy import register_family as register_family
    from hf_td.compaction import compact_model as compact_model
    from hf_td.config import TargetedDropoutConfig as TargetedDropoutConfig
    from hf_td.hub import export_model as export_model
    from hf_td.patching.patch import anneal as anneal
    from hf_td.patching.patch import patch_model as patch_model
    from hf_td.patching.patch import unpatch_model as unpatch_model
    from hf_td.pruning import PruningReport as PruningReport
    from hf_td.pruning import prune_model as prune_model
    from hf_td.schedules import Schedule as Schedule
    from hf_td.training import TargetedDropoutArguments as TargetedDropoutArguments
    from hf_td.training import TargetedDropoutCallback as TargetedDropoutCallback
    from hf_td.training import TargetedDropoutSeq2SeqArguments as TargetedDropoutSeq2SeqArguments
    from hf_td.training import TargetedDropoutSeq2SeqTrainer as TargetedDropoutSeq2SeqTrainer
    from hf_td.training import TargetedDropoutTrainer as TargetedDropoutTrainer

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]

register_loader()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
