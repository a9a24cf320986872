"""The dependence diagnostic: why pruning costs what it costs (paper, section 3).

What is to be removed is a set S of weights; d is theta on S and 0 elsewhere. To second order the
loss E changes by

    E(theta - d) - E(theta) = - g.d + 1/2 d.Hd

with the gradient g and the Hessian H. Targeted dropout is to make S a set that the network does not
depend on, so that both are small. The prediction is local: it stands beside the true change.
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
from hf_td.anatomy import Block, evaluating, read_anatomy
from hf_td.anatomy.trace import thawed
from hf_td.config import TargetedDropoutConfig
from hf_td.pruning import (
    Budget,
    as_budget,
    check_sparsity,
    kept_weights,
    remove_lowest,
    sites_to_prune,
)
from hf_td.ranking.sites import Site

Batch = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
# By the name of a block, the names of its parameters that pruning changes.
Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class BlockDependence:
    """What the loss depends on in one block.

    Attributes:
        name: dotted name of the block, and its part.
        label: the same, short: the index of the layer, and its part.
        removed: how many of its weights are in S.
        terms: of its part of S.
        true: the change of the loss where S is removed from this block alone.
    """

    name: str
    label: str
    removed: int
    terms: Terms
    true: float

    @property
    def predicted(self) -> float:
        """What `true` is to second order."""
        return self.terms.linear + self.terms.within


@dataclass(frozen=True)
class Dependence:
    """How much the loss depends on what pruning removes.

    Attributes:
        sparsity: the fraction that is removed.
        loss: of the whole model.
        pruned_loss: of the model without S.
        blocks: in the order in which the model runs them.
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
        """The change of the loss to second order."""
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
    example_inputs: Batch | None = None,
    **overrides: Any,
) -> Dependence:
    """Predict what it costs to prune a model, term by term, and measure what it does cost.

    A gradient and a Hessian-vector product for each batch give all sums; one more product for each
    block tells its own part of the curvature from that between blocks. S is what `prune_model`
    would set to zero; of a unit only what its consumer reads, as in training: the producers' rows
    have no effect without it, and the smaller step is predicted better. As kept counts what stays
    of the same parameters. Meanwhile the model is in eval mode and its attention eager, since other
    kernels can be differentiated only once; it is left as it was.

    Args:
        model: patched or plain; its forward returns a `loss`, the mean over a batch.
        sparsity: as for `prune_model`.
        batches: keyword arguments for `model`, labels included; each counts by its rows.
        config: as for `prune_model`.
        budget: as for `prune_model`.
        calibration: as for `prune_model`.
        example_inputs: as for `prune_model`.
        **overrides: as for `prune_model`.

    Raises:
        ValueError: as `prune_model`; there is no batch, or a forward returns no loss.
    """
    check_sparsity(sparsity)
    if not batches:
        raise ValueError("at least one batch of data is needed to measure a loss")
    sites = sites_to_prune(
        model, config, calibration=calibration, example_inputs=example_inputs, **overrides
    )
    removed = _removed(model, sites, sparsity, as_budget(budget))
    found = _blocks_of(read_anatomy(model, example_inputs).blocks, removed)
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
    """By parameter, the values that go where they stand, and zero elsewhere."""
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
    """The blocks that pruning changes, with the names of their changed parameters."""
    left = dict.fromkeys(removed)
    found = {}
    for block in blocks:
        members = [n for n in left if any(_is_in(n, module) for module in block.modules)]
        if members:
            found[f"{block.name} ({block.part})"] = block, members
        for name in members:
            del left[name]  # of a layer that occurs again
    return found


def _is_in(parameter: str, module: str) -> bool:
    """Whether a parameter is of a module; a stack of experts is a parameter itself."""
    return parameter == module or parameter.startswith(f"{module}.")


def _labels(blocks: Mapping[str, Block]) -> dict[str, str]:
    """Short names, where these tell the blocks apart."""
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
    """The loss without some weights; taking off and adding what they are is exact."""
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
            f"a forward of {type(model).__name__} returned no loss; are labels missing?"
        )
    return loss


def _shares(batches: Sequence[Batch]) -> list[tuple[Batch, float]]:
    """The batches with their shares of all rows."""
    rows = [next(len(v) for v in batch.values() if isinstance(v, Tensor)) for batch in batches]
    return [(batch, n / sum(rows)) for batch, n in zip(batches, rows, strict=True)]


@contextmanager
def _differentiable_twice(model: nn.Module) -> Iterator[None]:
    """Eval mode, eager attention, and gradients for all parameters; all is restored."""
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
