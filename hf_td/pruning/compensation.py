"""Compensates for removed heads and neurons in the weights that read the others.

A consumer computes `W x + b`. Without some of its inputs it should still return that, as far as the
other inputs tell. The best weights in the sense of least squares follow from the second moments of
the inputs. The error of a row counts relative to what the consumer computes of it: a norm follows,
and a few tokens whose values are far larger than the rest would decide alone. Cheaper and coarser,
the bias alone takes over the mean of what is removed.
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
from hf_td.ranking.batches import check_batch, run_batch
from hf_td.ranking.sites import Site, UnitSite, by_feature

Compensation = Literal["least_squares", "mean"]
Batches = Sequence[Mapping[str, Any]]

# Ridges: what may be added to the diagonal of the second moments, as fractions of its mean. Each
# layer takes the one that serves rows best that its weights were not fitted to. Tokens of one text
# are alike, so that few texts are easily fitted too well.
_RIDGES = tuple(10.0**power for power in range(-8, 3))
# One text of this many is kept back to choose the ridge. With fewer texts it is `_CAUTIOUS`.
_KEPT_BACK = 4
_CAUTIOUS = 0.1
# The least square of a row's output, as a fraction of the median, that its error is divided by.
_LEAST = 1e-3
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
                f"{_ranked(site)}. Use level='unit' and leave these out, or prune them first, by a "
                "call of their own"
            )
        if kind == "mean" and getattr(site.layer, "bias", None) is None:
            raise ValueError(
                f"compensate='mean' needs a bias, and {site.name} has none. Use "
                "compensate='least_squares'"
            )


def _ranked(site: Site) -> str:
    names = {"weight": "single weights", "layer": "layers", "expert": "experts"}
    return names.get(site.kind, "the neurons of experts")


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
    at a time, a few times `(fan_in, fan_in)` in float64. With the mean, one forward of all batches
    serves all.

    Args:
        model: the model that contains the sites.
        sites: of heads or neurons, in the order in which the model runs them.
        chosen: for each site a boolean mask of the shape of its scores.
        kind: `least_squares` or `mean`.
        batches: keyword arguments for `model`. Rows that an `attention_mask` leaves out do not
            count.
    """
    pairs = [(site, mask) for site, mask in zip(sites, chosen, strict=True) if mask.any()]
    means: dict[str, _Seen] = {}
    if kind == "mean":
        means = _measure(model, [site for site, _ in pairs], batches, squares=False)
    for site, mask in pairs:
        assert isinstance(site, UnitSite)
        seen = means[site.name] if means else _measure(model, [site], batches)[site.name]
        added, bias = _correction(site, mask, seen)
        site.remove(mask)
        if added is not None:
            site.layer.weight.add_(added.to(site.layer.weight))
        if bias is not None:
            site.layer.bias.add_(bias.to(site.layer.bias))


@dataclass
class _Sums:
    """Weighted sums over rows of a layer's inputs, in float64.

    Attributes:
        first: `(fan_in,)`.
        second: of products, `(fan_in, fan_in)`; None where the mean is enough.
        rows: sum of the weights of the rows.
    """

    first: Tensor
    second: Tensor | None
    rows: float = 0.0

    def add(self, inputs: Tensor, weights: Tensor) -> None:
        """Add rows, `(rows, fan_in)`, with a weight for each, `(rows,)`."""
        for some, each in zip(inputs.split(_ROWS), weights.split(_ROWS), strict=True):
            wide, weighted = some.to(self.first), some.to(self.first) * each[:, None]
            self.first += weighted.sum(0)
            if self.second is not None:
                self.second.addmm_(weighted.T, wide)
        self.rows += float(weights.sum())

    @property
    def mean(self) -> Tensor:
        """The mean of the rows, `(fan_in,)`."""
        return self.first / self.rows

    def moments(self, centre: Tensor | None) -> Tensor:
        """Return the mean of the products of inputs less `centre`, `(fan_in, fan_in)`."""
        assert self.second is not None
        moments = self.second / self.rows
        if centre is None:
            return moments
        shift = torch.outer(self.mean, centre)
        return moments - shift - shift.T + torch.outer(centre, centre)

    def __add__(self, other: _Sums) -> _Sums:
        second = None
        if self.second is not None and other.second is not None:
            second = self.second + other.second
        return _Sums(self.first + other.first, second, self.rows + other.rows)


@dataclass
class _Seen:
    """The sums of a consumer's inputs, in which each row counts by the inverse of its output.

    Attributes:
        layer: the consumer.
        fitted: of the texts that its weights are fitted to.
        held: of those that are kept back.
        texts: number of texts until now.
    """

    layer: Any
    fitted: _Sums
    held: _Sums
    texts: int = 0

    @classmethod
    def empty(cls, layer: Any, *, squares: bool) -> _Seen:
        """Return sums of nothing."""
        size = layer.weight.shape[importance.fan_in_dim(layer)]
        first = torch.zeros(size, dtype=torch.float64, device=layer.weight.device)

        def sums() -> _Sums:
            return _Sums(first.clone(), first.new_zeros(size, size) if squares else None)

        return cls(layer, sums(), sums())

    def add(self, inputs: Tensor, mask: Tensor | None) -> None:
        """Add inputs, `(texts, ..., fan_in)`, without those where the mask is zero."""
        numbers = torch.arange(self.texts, self.texts + len(inputs), device=inputs.device)
        held = numbers % _KEPT_BACK == _KEPT_BACK - 1
        counted = torch.ones(inputs.shape[:-1], dtype=torch.bool, device=inputs.device)
        if mask is not None and mask.shape == inputs.shape[:-1]:
            counted = mask.to(inputs.device).bool()
        held = held.view(-1, *[1] * (inputs.dim() - 2)).expand_as(counted)
        weights = self._weights(inputs)
        for sums, chosen in ((self.fitted, counted & ~held), (self.held, counted & held)):
            sums.add(inputs[chosen], weights[chosen])
        self.texts += len(inputs)

    def _weights(self, inputs: Tensor) -> Tensor:
        """Return one over the square of what the layer computes of each row, without its bias."""
        weight = self.layer.weight.detach().movedim(importance.fan_in_dim(self.layer), -1)
        squares = nn.functional.linear(inputs, weight).double().square().sum(-1)
        least = (_LEAST * squares.median()).clamp(min=torch.finfo(squares.dtype).tiny)
        return 1 / squares.clamp(min=least)


def _correction(site: UnitSite, mask: Tensor, seen: _Seen) -> tuple[Tensor | None, Tensor | None]:
    """Return what is added to the consumer's weight, and to its bias; None for nothing.

    The weights of removed units, and those that are zero for all outputs, stay as they are.
    """
    layer, sums = site.layer, seen.fitted + seen.held
    inputs = importance.fan_in_dim(layer)
    weight = layer.weight.detach().movedim(inputs, -1).to(sums.first)
    removed = by_feature(mask, site.block.consumer, weight.shape[1]).to(weight.device)
    bias = getattr(layer, "bias", None)
    change = torch.zeros_like(weight)
    if sums.second is not None:
        kept = ~removed & weight.any(0)
        ridge = _best_ridge(weight, removed, kept, seen, centred=bias is not None)
        moments = sums.moments(None if bias is None else sums.mean)
        change[:, kept] = _fit(weight, removed, kept, moments, ridge)
    shift = weight[:, removed] @ sums.mean[removed] - change @ sums.mean
    added = None if sums.second is None else change.movedim(-1, inputs)
    return added, None if bias is None else shift


def _best_ridge(
    weight: Tensor, removed: Tensor, kept: Tensor, seen: _Seen, *, centred: bool
) -> float:
    """Return the ridge with the least error on the texts that are kept back."""
    if not seen.held.rows or not seen.fitted.rows:
        return _CAUTIOUS
    centre = seen.fitted.mean if centred else None
    moments, held = seen.fitted.moments(centre), seen.held.moments(centre)
    errors: dict[float, float] = {}
    for ridge in _RIDGES:
        missing = weight * removed
        missing[:, kept] -= _fit(weight, removed, kept, moments, ridge)
        errors[ridge] = float(((missing @ held) * missing).sum())
    return min(errors, key=errors.__getitem__)


def _fit(weight: Tensor, removed: Tensor, kept: Tensor, moments: Tensor, ridge: float) -> Tensor:
    """Return the change of the kept weights, `(fan_out, kept)`, that makes up for the removed ones.

    Where the moments are singular up to rounding, the ridge grows until they are not.
    """
    matrix, right = moments[kept][:, kept], moments[kept][:, removed] @ weight[:, removed].T
    if not len(matrix):
        return right.T
    scale = matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    added = torch.eye(len(matrix)).to(matrix) * scale * ridge
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + added)
        if not failed:
            return torch.cholesky_solve(right, factor).T
        added *= 10


def _measure(
    model: nn.Module, sites: Sequence[Site], batches: Batches, *, squares: bool = True
) -> dict[str, _Seen]:
    """Sum the inputs of consumers while the model runs the batches in eval mode.

    Raises:
        ValueError: a forward never calls one of them.
    """
    found = {site.name: _Seen.empty(site.layer, squares=squares) for site in sites}
    calls = None
    with evaluating(model):
        for batch in batches:
            check_batch(batch)
            mask = batch.get("attention_mask")

            def add(name: str, inputs: Tensor, mask: Any = mask) -> None:
                found[name].add(inputs, mask if isinstance(mask, Tensor) else None)

            with _watching(model, sites, add, calls) as count:
                run_batch(model, batch)
            calls = count[0]
    silent = [name for name, seen in found.items() if not seen.fitted.rows + seen.held.rows]
    if silent:
        raise ValueError(
            f"no row of the calibration runs through {silent[0]}. Pass batches with rows that do, "
            "or exclude it"
        )
    return found


class _Enough(Exception):
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
                raise _Enough

        return watch

    handles = [
        model.get_submodule(site.name).register_forward_pre_hook(hook(site.name)) for site in sites
    ]
    try:
        with suppress(_Enough):
            yield count
    finally:
        for handle in handles:
            handle.remove()
