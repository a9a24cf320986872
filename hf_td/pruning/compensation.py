"""Compensates for removed heads and neurons in the weights that read the others.

A consumer computes `W x + b`. Without some of its inputs it should still return that, as far as the
other inputs tell. The best weights in the sense of least squares follow from the second moments of
the inputs (Optimal Brain Surgeon, and for whole layers arXiv 2303.14409). Cheaper and coarser, the
bias alone takes over the mean of what is removed (arXiv 1611.06440 calls it the bias correction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hf_td.anatomy import evaluating
from hf_td.ranking import importance
from hf_td.ranking.sites import Site, UnitSite, by_feature

Compensation = Literal["least_squares", "mean"]
Batches = Sequence[Mapping[str, Any]]

# Added to the diagonal of the second moments, as a fraction of its mean. It decides where inputs
# depend on each other, and changes nothing elsewhere.
_RIDGE = 1e-6
# Rows that are converted to float64 at once.
_ROWS = 4096


def as_compensation(compensate: bool | Compensation) -> Compensation | None:
    """Return the kind of compensation; True stands for least squares.

    Raises:
        ValueError: there is no such kind.
    """
    if compensate in (True, False, None):
        return "least_squares" if compensate else None
    if compensate not in get_args(Compensation):
        raise ValueError(
            f"compensate is a bool or one of {list(get_args(Compensation))}, got {compensate!r}"
        )
    return compensate


def check_compensation(sites: Sequence[Site], kind: Compensation, batches: Batches | None) -> None:
    """Raise ValueError unless the removal of all sites can be compensated for."""
    if not batches:
        raise ValueError(
            "compensate measures the inputs of layers. Pass a few batches of training data as "
            "calibration=..."
        )
    for site in sites:
        if not isinstance(site, UnitSite) or site.layer.weight.dim() != 2:
            raise ValueError(
                f"compensate is for heads and neurons outside of experts, and {site.name} ranks "
                "others. Use level='unit' and experts_level='none', and exclude experts"
            )
        if kind == "mean" and getattr(site.layer, "bias", None) is None:
            raise ValueError(
                f"compensate='mean' needs a bias, and {site.name} has none. Use "
                "compensate='least_squares'"
            )


@torch.no_grad()
def remove_and_compensate(
    model: nn.Module,
    sites: Sequence[Site],
    chosen: Sequence[Tensor],
    kind: Compensation,
    batches: Batches,
) -> None:
    """Remove chosen units, and change the weights that read the others to make up for them.

    With least squares one layer follows the other, and each sees the inputs that the pruned layers
    before it make: a forward of all batches for each. The second moments of one layer are in memory
    at a time, `(fan_in, fan_in)` in float64. With the mean, one forward of all batches serves all.

    Args:
        model: the model that contains the sites.
        sites: of heads or neurons, in the order in which the model runs them.
        chosen: for each site a boolean mask of the shape of its scores.
        kind: `least_squares` or `mean`.
        batches: keyword arguments for `model`. Rows that an `attention_mask` leaves out do not
            count.
    """
    pairs = [(site, mask) for site, mask in zip(sites, chosen, strict=True) if mask.any()]
    means: dict[str, _Sums] = {}
    if kind == "mean":
        means = _measure(model, [site for site, _ in pairs], batches, squares=False)
    for site, mask in pairs:
        assert isinstance(site, UnitSite)
        sums = means[site.name] if means else _measure(model, [site], batches)[site.name]
        added, bias = _correction(site, mask, sums)
        site.remove(mask)
        if added is not None:
            site.layer.weight.add_(added.to(site.layer.weight))
        if bias is not None:
            site.layer.bias.add_(bias.to(site.layer.bias))


@dataclass
class _Sums:
    """Sums over rows of a layer's inputs, in float64.

    Attributes:
        first: `(fan_in,)`.
        second: of products, `(fan_in, fan_in)`; None where the mean is enough.
        rows: number of rows.
    """

    first: Tensor
    second: Tensor | None
    rows: int = 0

    def add(self, inputs: Tensor) -> None:
        """Add rows, `(rows, fan_in)`."""
        for some in inputs.split(_ROWS):
            wide = some.to(self.first)
            self.first += wide.sum(0)
            if self.second is not None:
                self.second.addmm_(wide.T, wide)
        self.rows += len(inputs)

    @property
    def mean(self) -> Tensor:
        """The mean of the rows, `(fan_in,)`."""
        return self.first / self.rows

    def moments(self, *, centred: bool) -> Tensor:
        """Return the mean of the products, of inputs less their means if `centred`."""
        assert self.second is not None
        moments = self.second / self.rows
        return moments - torch.outer(self.mean, self.mean) if centred else moments


def _correction(site: UnitSite, mask: Tensor, sums: _Sums) -> tuple[Tensor | None, Tensor | None]:
    """Return what is added to the consumer's weight, and to its bias; None for nothing.

    The weights of removed units, and those that are zero for all outputs, stay as they are.
    """
    layer = site.layer
    inputs = importance.fan_in_dim(layer)
    weight = layer.weight.detach().movedim(inputs, -1).to(sums.first)
    removed = by_feature(mask, site.block.consumer, weight.shape[1]).to(weight.device)
    lost = weight[:, removed]
    added: Tensor | None = None
    bias = getattr(layer, "bias", None)
    shift = lost @ sums.mean[removed]
    if sums.second is not None:
        kept = ~removed & weight.any(0)
        moments = sums.moments(centred=bias is not None)
        change = lost @ _solve(moments[kept][:, kept], moments[kept][:, removed]).T
        shift -= change @ sums.mean[kept]
        added = torch.zeros_like(weight)
        added[:, kept] = change
        added = added.movedim(-1, inputs)
    return added, None if bias is None else shift


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve normal equations; the ridge grows until the matrix is positive definite."""
    if not len(matrix):
        return right
    scale = matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    ridge = torch.eye(len(matrix)).to(matrix) * scale * _RIDGE
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + ridge)
        if not failed:
            return torch.cholesky_solve(right, factor)
        ridge *= 10


def _measure(
    model: nn.Module, sites: Sequence[Site], batches: Batches, *, squares: bool = True
) -> dict[str, _Sums]:
    """Sum the inputs of consumers while the model runs the batches in eval mode.

    Raises:
        ValueError: a forward never calls one of them.
    """
    sums = {site.name: _empty(site.layer, squares=squares) for site in sites}
    with evaluating(model):
        calls = None
        for batch in batches:
            with _watching(model, sites, _adding(sums, batch), calls) as count:
                model(**batch)
            calls = count[0]
    silent = [name for name, found in sums.items() if not found.rows]
    if silent:
        raise ValueError(
            f"no batch of the calibration runs through {silent[0]}. Pass batches that do, or "
            "exclude it"
        )
    return sums


def _empty(layer: Any, *, squares: bool) -> _Sums:
    size = layer.weight.shape[importance.fan_in_dim(layer)]
    first = torch.zeros(size, dtype=torch.float64, device=layer.weight.device)
    return _Sums(first, first.new_zeros(size, size) if squares else None)


def _adding(sums: Mapping[str, _Sums], batch: Mapping[str, Any]) -> Callable[[str, Tensor], None]:
    """Return a function that adds the inputs of a layer, without those of padding."""
    mask = batch.get("attention_mask")

    def add(name: str, inputs: Tensor) -> None:
        if isinstance(mask, Tensor) and mask.shape == inputs.shape[:-1]:
            sums[name].add(inputs[mask.to(inputs.device).bool()])
        else:
            sums[name].add(inputs.reshape(-1, inputs.shape[-1]))

    return add


class _Seen(Exception):
    """Ends a forward after the last call of the watched layers."""


@contextmanager
def _watching(
    model: nn.Module,
    sites: Iterable[Site],
    add: Callable[[str, Tensor], None],
    calls: int | None,
) -> Iterator[list[int]]:
    """Give the inputs of consumers to `add`; end the forward after so many calls, if any.

    Yields a list with the number of calls until now.
    """
    count = [0]

    def hook(name: str) -> Callable[..., None]:
        def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            add(name, inputs[0])
            count[0] += 1
            if count[0] == calls:
                raise _Seen

        return watch

    handles = [
        model.get_submodule(site.name).register_forward_pre_hook(hook(site.name)) for site in sites
    ]
    try:
        with suppress(_Seen):
            yield count
    finally:
        for handle in handles:
            handle.remove()
