"""Removes the least important weights or units of a model, and reports what is removed."""

from hf_td.pruning.budgets import Budget
from hf_td.pruning.fixed import check_can_fix, fix_pattern
from hf_td.pruning.keep import KeptPruned, keep_pruned, zeros_restored
from hf_td.pruning.named import prune_units
from hf_td.pruning.prune import (
    as_budget,
    check_reachable,
    check_sparsity,
    kept_weights,
    prune_model,
    pruned,
    remove_lowest,
)
from hf_td.pruning.report import BlockSparsity, LayerSparsity, PruningReport, count_sparsity
from hf_td.pruning.selection import select_sites, sites_to_prune
from hf_td.pruning.times import Curve, Times

__all__ = [
    "BlockSparsity",
    "Budget",
    "Curve",
    "KeptPruned",
    "LayerSparsity",
    "PruningReport",
    "Times",
    "as_budget",
    "check_can_fix",
    "check_reachable",
    "check_sparsity",
    "count_sparsity",
    "fix_pattern",
    "keep_pruned",
    "kept_weights",
    "prune_model",
    "prune_units",
    "pruned",
    "remove_lowest",
    "select_sites",
    "sites_to_prune",
    "zeros_restored",
]
