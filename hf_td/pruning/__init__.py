"""Takes the least important weights or units of a model out, and says what is gone."""

from hf_td.pruning.budgets import Budget
from hf_td.pruning.prune import (
    as_budget,
    check_reachable,
    check_sparsity,
    kept_weights,
    prune_model,
    remove_lowest,
    sites_to_prune,
)
from hf_td.pruning.report import BlockSparsity, LayerSparsity, PruningReport, count_sparsity
from hf_td.pruning.semi_structured import to_semi_structured

__all__ = [
    "BlockSparsity",
    "Budget",
    "LayerSparsity",
    "PruningReport",
    "as_budget",
    "check_reachable",
    "check_sparsity",
    "count_sparsity",
    "kept_weights",
    "prune_model",
    "remove_lowest",
    "sites_to_prune",
    "to_semi_structured",
]
