"""Measures dependence: how the loss depends on the weights that pruning removes (paper, section 3).

Pruning removes a set S of weights. Let d be theta on S and 0 elsewhere. To second order the loss E
changes by

    E(theta - d) - E(theta) = - g.d + 1/2 d.Hd

with the gradient g and the Hessian H. Targeted dropout trains the network not to depend on S, which
makes both terms small. The prediction is local, so it is reported beside the true change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td.analysis.expansion import Terms, expand
from hf_td.anatomy import Anatomy, Block, evaluating
from hf_td.anatomy.trace import thawed
from hf_td.config import TargetedDropoutConfig, check_known
from hf_td.pruning import (
    Budget,
    as_budget,
    check_sparsity,
    kept_weights,
    remove_lowest,
    select_sites,
)
from hf_td.ranking.activations import Activations
from hf_td.ranking.sites import Site

Batch = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
# From the name of a block to the names of its parameters that pruning changes.
Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class BlockDependence:
    """The dependence of the loss on one block.

    Attributes:
        name: dotted name of the block, and its part.
        label: a short name: the index of the layer, and the part.
        removed: the number of the block's weights that are in S.
        terms: the terms of the block's part of S.
        true: the change of the loss when S is removed from this block alone.
    """

    name: str
    label: str
    removed: int
    terms: Terms
    true: float

    @property
    def predicted(self) -> float:
        """The second-order prediction of `true`."""
        return self.terms.linear + self.terms.within


@dataclass(frozen=True)
class Dependence:
    """The dependence of the loss on what pruning removes.

    Attributes:
        sparsity: the fraction that is removed.
        loss: the loss of the whole model.
        pruned_loss: the loss of the model without S.
        blocks: one entry for each block that loses weights, in the order of the forward.
    """

    sparsity: float
    loss: float
    pruned_loss: float
    blocks: tuple[BlockDependence, ...]

    @property
    def total(self) -> Terms:
        """The terms of all of S."""
        return sum((block.terms for block in self.blocks), Terms())

    @property
    def predicted(self) -> float:
        """The second-order prediction of the change of the loss."""
        return self.total.linear + self.total.curvature

    @property
    def true(self) -> float:
        """The change of the loss."""
        return self.pruned_loss - self.loss


def measure_dependence(
    model: nn.Module,
    sparsity: float,
    batches: Sequence[Batch],
    config: TargetedDropoutConfig | None = None,
    *,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    calibration: Sequence[Batch] | None = None,
    activations: Activations | None = None,
    scores: Tensors | None = None,
    anatomy: Anatomy | None = None,
    example_inputs: Batch | None = None,
    **overrides: Any,
) -> Dependence:
    """Predict the change of the loss under pruning, term by term, and measure the true change.

    A gradient and a Hessian-vector product for each batch give all sums. One more product for each
    block separates its own curvature from the curvature between blocks.

    S is what `prune_model` would set to zero. Of a unit it holds only the consumer's columns, as in
    training: the producers' rows have no effect without them, and a smaller step is predicted
    better. Weights count as kept if they are in a parameter that loses some, but not in S.

    During the measurement the model is in eval mode and its attention is eager, because other
    kernels can be differentiated only once. Afterwards both are restored.

    Args:
        model: patched or plain; its forward returns a `loss`, the mean over a batch.
        sparsity: as for `prune_model`.
        batches: keyword arguments for `model`, labels included; weighted by their rows.
        config: as for `prune_model`.
        budget: as for `prune_model`.
        calibration: as for `prune_model`.
        activations: as for `prune_model`.
        scores: as for `prune_model`.
        anatomy: as for `prune_model`.
        example_inputs: as for `prune_model`.
        **overrides: as for `prune_model`.

    Raises:
        ValueError: there is no batch, or a forward returns no loss; or as for `prune_model`.
    """
    check_known(overrides, measure_dependence)
    check_sparsity(sparsity)
    if not batches:
        raise ValueError("at least one batch of data is needed to measure a loss")
    anatomy, sites = select_sites(
        model,
        config,
        calibration=calibration,
        activations=activations,
        scores=scores,
        anatomy=anatomy,
        example_inputs=example_inputs,
        **overrides,
    )
    whole = [site for site in sites if site.kind in ("layer", "expert")]
    if whole:
        raise ValueError(
            f"whole {whole[0].kind}s of {whole[0].name} are left out, and no step of their weights "
            "does that. So their loss cannot be predicted from derivatives. Use "
            f"{whole[0].kind}s_level='none'"
        )
    removed = _removed(model, sites, sparsity, as_budget(budget))
    found = _blocks_of(anatomy.blocks, removed)
    groups = {name: parameters for name, (_, parameters) in found.items()}
    with _differentiable_twice(model):
        terms = _mean_terms(model, removed, groups, batches)
        loss = _loss(model, batches)
        pruned_loss = _loss_without(model, removed, batches)
        alone = {
            name: _loss_without(model, {n: removed[n] for n in members}, batches) - loss
            for name, members in groups.items()
        }
    labels = _labels({name: block for name, (block, _) in found.items()})
    sizes = {name: sum(int(removed[n].count_nonzero()) for n in groups[name]) for name in groups}
    blocks = [BlockDependence(n, labels[n], sizes[n], terms[n], alone[n]) for n in groups]
    return Dependence(sparsity, loss, pruned_loss, tuple(blocks))


def _removed(
    model: nn.Module, sites: tuple[Site, ...], sparsity: float, budget: Budget
) -> dict[str, Tensor]:
    """Return, by parameter, the values that pruning removes, and zero elsewhere."""
    ranked = [site.name for site in sites]  # a layer, or the consumer of units
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(_is_in(name, layer) for layer in ranked)
    }
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with kept_weights(sites):
        remove_lowest(sites, sparsity, budget)
        steps = {name: before[name] - p.detach() for name, p in parameters.items()}
    return {name: step for name, step in steps.items() if step.any()}


def _blocks_of(blocks: Sequence[Block], removed: Tensors) -> dict[str, tuple[Block, list[str]]]:
    """Return the blocks that pruning changes, with the names of their changed parameters."""
    left = dict.fromkeys(removed)
    found = {}
    for block in blocks:
        members = [n for n in left if any(_is_in(n, module) for module in block.modules)]
        if members:
            found[f"{block.name} ({block.part})"] = block, members
        for name in members:
            del left[name]  # a shared layer counts for its first block
    return found


def _is_in(parameter: str, module: str) -> bool:
    """Return whether a parameter belongs to a module; a stack of experts is itself a parameter."""
    return parameter == module or parameter.startswith(f"{module}.")


def _labels(blocks: Mapping[str, Block]) -> dict[str, str]:
    """Return short names, or full ones if the short ones are not unique."""
    parts = {"attention": "attention", "feed_forward": "feed-forward"}
    short = {name: f"{block.layer} {parts[block.part]}" for name, block in blocks.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in blocks}


def _mean_terms(
    model: nn.Module, removed: Tensors, groups: Groups, batches: Sequence[Batch]
) -> dict[str, Terms]:
    parameters = {name: p for name, p in model.named_parameters() if name in removed}
    total = dict.fromkeys(groups, Terms())
    for batch, share in _shares(batches) if groups else ():
        terms = expand(lambda batch=batch: _forward(model, batch), parameters, removed, groups)
        total = {name: total[name] + terms[name] * share for name in groups}
    return total


@torch.no_grad()
def _loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    return sum(share * float(_forward(model, batch)) for batch, share in _shares(batches))


@torch.no_grad()
def _loss_without(model: nn.Module, removed: Tensors, batches: Sequence[Batch]) -> float:
    """Return the loss without some weights. Subtracting them and adding them back is exact."""
    parameters = dict(model.named_parameters())
    for name, step in removed.items():
        parameters[name].sub_(step)
    try:
        return _loss(model, batches)
    finally:
        for name, step in removed.items():
            parameters[name].add_(step)


def _forward(model: nn.Module, batch: Batch) -> Tensor:
    loss = getattr(model(**batch), "loss", None)
    if loss is None:
        raise ValueError(
            f"a forward of {type(model).__name__} returned no loss. Pass batches with labels"
        )
    return loss


def _shares(batches: Sequence[Batch]) -> list[tuple[Batch, float]]:
    """Return the batches with their shares of all rows."""
    rows = [next(len(v) for v in batch.values() if isinstance(v, Tensor)) for batch in batches]
    return [(batch, n / sum(rows)) for batch, n in zip(batches, rows, strict=True)]


@contextmanager
def _differentiable_twice(model: nn.Module) -> Iterator[None]:
    """Set eval mode, eager attention and gradients for all parameters; restore them on exit."""
    stock = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    kernels = [(module.config, module.config._attn_implementation) for module in stock]
    with evaluating(model), thawed(model):
        try:
            for module in stock:
                module.set_attn_implementation("eager")
            yield
        finally:
            for config, kernel in kernels:
                config._attn_implementation = kernel
