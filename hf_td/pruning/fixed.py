"""Fixes the pattern of a patched model before its training ends.

Targeted dropout trains a network for pruning that comes later. In the fixed phase it has come: the
model is pruned, its zeros stay, and what remains is trained at exactly the sparsity that ships.
Pruning it to this sparsity afterwards changes nothing.
"""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from hf_td.patching.patch import Patch, find_patch
from hf_td.pruning.keep import KeptPruned, keep_pruned
from hf_td.pruning.prune import check_reachable, check_sparsity, prune_model
from hf_td.pruning.selection import sites_to_prune


def fix_pattern(
    model: nn.Module, sparsity: float | None = None, *, optimizer: Optimizer | None
) -> KeptPruned:
    """Prune a patched model in place while it trains, and fix its zeros.

    From then on `anneal` drops nothing, and the zeros get no gradient. Activations are not measured
    any more, so the ranking that pruned stays the one that is saved. On a model that is pruned so
    already it changes nothing: a resumed run calls it again.

    `TargetedDropoutTrainer` and `TargetedDropoutCallback` call it in the first update of the fixed
    phase. In a loop of one's own, call it there, before `anneal`.

    Args:
        model: a patched model, as it is trained.
        sparsity: the fraction to remove, in (0, 1); None for the `fixed_sparsity` of its settings.
        optimizer: the optimiser in use: its momentum of the zeros is cleared. None for one that is
            made afterwards.

    Returns:
        A handle whose `remove` ends the phase. Unpatching the model ends it too.

    Raises:
        TypeError: as for `keep_pruned`.
        ValueError: the model is not patched, its pattern is fixed already, there is no sparsity, or
            as for `prune_model`.
    """
    patch = _require_patch(model)
    if patch.is_fixed:
        raise ValueError("the pattern is fixed already; remove the handle of fix_pattern first")
    sparsity = patch.config.fixed_sparsity if sparsity is None else sparsity
    if sparsity is None:
        raise ValueError(
            "fix_pattern needs a sparsity, and the settings of the patch have no fixed_sparsity. "
            "Pass the sparsity that will be shipped, such as fix_pattern(model, 0.9, ...)"
        )
    patch.update_averages()
    prune_model(model, sparsity, anatomy=patch.anatomy_for(model))
    patch.fixed = kept = keep_pruned(model, optimizer)
    return kept


def check_can_fix(model: nn.Module) -> None:
    """Raise what `fix_pattern` would raise at the settings' `fixed_sparsity`; a no-op without it.

    Raises:
        TypeError, ValueError: as for `fix_pattern`.
    """
    patch = _require_patch(model)
    sparsity = patch.config.fixed_sparsity
    if sparsity is not None:
        check_sparsity(sparsity)
        check_reachable(sites_to_prune(model, anatomy=patch.anatomy_for(model)), sparsity)


def _require_patch(model: nn.Module) -> Patch:
    patch = find_patch(model)
    if patch is None:
        raise ValueError(
            f"fix_pattern is for a patched model, and {type(model).__name__} is none. Call "
            "prune_model and keep_pruned, or patch_model first"
        )
    return patch
