"""Patches a model for targeted dropout, anneals it, and restores the stock model."""

from hf_td.patching.distributed import shard_by_rows
from hf_td.patching.patch import Patch, anneal, find_patch, patch_model, unpatch_model

__all__ = ["Patch", "anneal", "find_patch", "patch_model", "shard_by_rows", "unpatch_model"]
