"""Takes units out of the tensors and attributes of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hf_td.anatomy import Companion, Holder, Mixture, Projection, parameter_names
from hf_td.kernels.reductions import select
from hf_td.modules.compact_shapes import EXPERTS, KEY_VALUE_HEADS, QUERY_HEADS, WIDTHS
from hf_td.ranking.sites import by_feature

# From parameter name and dimension to what is removed along it: `(size,)` or `(experts, size)`.
Cuts = dict[tuple[str, int], Tensor]


def cut_parameters(model: nn.Module, kept: Mapping[Holder, Tensor]) -> dict[str, Tensor]:
    """Return the smaller tensor of each parameter that loses something, by name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    smaller: dict[str, Tensor] = {}
    for (name, dim), removed in cuts_of(model, kept).items():
        smaller[name] = without(smaller.get(name, parameters[name].detach()), dim, removed)
    return smaller


def smaller_shapes(model: nn.Module, kept: Mapping[Holder, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what `cut_parameters` returns."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes: dict[str, list[int]] = {}
    for (name, dim), removed in cuts_of(model, kept).items():
        remaining = int((~removed).sum(-1).max())
        shapes.setdefault(name, list(parameters[name].shape))[dim] = remaining
    return {name: tuple(shape) for name, shape in shapes.items()}


def without(tensor: Tensor, dim: int, removed: Tensor) -> Tensor:
    """Return a tensor without some of its slices; a 2-D mask has one row for each expert."""
    stays = _places(~removed, tensor, dim)
    if removed.dim() == 1:
        return select(tensor, dim, stays.flatten())
    return tensor.take_along_dim(stays, dim).contiguous()


def take(tensor: Tensor, dim: int, removed: Tensor) -> Tensor:
    """Return the slices that `without` leaves out."""
    return without(tensor, dim, ~removed)


def join(smaller: Tensor, dim: int, removed: Tensor, taken: Tensor | None) -> Tensor:
    """Undo `without`: put `taken`, or zeros, back beside what it left."""
    shape = list(smaller.shape)
    shape[dim] = removed.shape[-1]
    whole = smaller.new_zeros(shape)
    for part, chosen in ((smaller, ~removed), (taken, removed)):
        if part is not None:
            index = _places(chosen, smaller, dim)
            whole.scatter_(dim, index.expand_as(part), part)
    return whole


def _places(chosen: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Return the indices of what is chosen, with as many dimensions as the tensor."""
    shape = [1] * tensor.dim()
    if chosen.dim() > 1:
        shape[0] = len(chosen)
    shape[dim] = -1
    return chosen.nonzero()[:, -1].to(tensor.device).view(shape)


def cuts_of(model: nn.Module, kept: Mapping[Holder, Tensor]) -> Cuts:
    """Return what is removed from each parameter; the roles of a fused layer are merged."""
    sizes = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False)}
    found: Cuts = {}
    for block, units in kept.items():
        removed = torch.ones(*units.shape[:-1], block.units, dtype=torch.bool).scatter(-1, units, 0)
        if removed.any():
            for name, dim, slices in _slices(model, block):
                features = by_feature(removed, slices, sizes[name][dim])
                found[name, dim] = found.get((name, dim), False) | features
    return found


def _slices(model: nn.Module, block: Holder) -> Iterator[tuple[str, int, Projection | Companion]]:
    """Yield every parameter of a block with the dimension that runs over its units' features."""
    if isinstance(block, Mixture):
        yield from ((piece.parameter, piece.dim, piece) for piece in block.slices)
        return
    for projection in block.projections:
        weight, *bias = parameter_names(model, projection.module)
        yield weight, projection.feature_dim(model), projection
        if bias and not projection.reads:
            yield bias[0], -1, projection
    for companion in block.companions:
        yield companion.parameter, companion.dim, companion


def new_counts(model: nn.Module, kept: Mapping[Holder, Tensor]) -> dict[str, dict[str, int]]:
    """Return the new counts of attention modules and mixtures, by module name."""
    counts: dict[str, dict[str, int]] = {}
    for block, units in kept.items():
        if block.part != "feed_forward" and len(units) < block.units:
            for name in _owners(block):
                found = _counts_of(model.get_submodule(name), block, len(units))
                if found:
                    counts[name] = found
    return counts


def _owners(block: Holder) -> Iterator[str]:
    """Yield the modules of a block that are not projections: their forwards read the counts."""
    if isinstance(block, Mixture):
        yield from (block.name, block.router, block.experts)
        return
    depth = len(block.name.split("."))
    paths = {block.name}
    for projection in block.projections:
        parts = projection.module.split(".")
        paths |= {".".join(parts[:n]) for n in range(depth, len(parts))}
    yield from sorted(paths)


def _counts_of(module: nn.Module, block: Holder, units: int) -> dict[str, int]:
    if isinstance(block, Mixture):
        return {name: units for name in sorted(EXPERTS) if _knows(module, name, block.units)}
    width = block.consumer.features.numel()
    rows = {p.role: p.features.shape[1] for p in block.producers}
    heads = block.units * (rows["q"] // rows["k"])  # query heads; a unit is a KV head
    groups = [(QUERY_HEADS, heads), (KEY_VALUE_HEADS, block.units), (WIDTHS, width)]
    return {
        name: before * units // block.units
        for names, before in groups
        for name in sorted(names)
        if _knows(module, name, before)
    }


def _knows(module: nn.Module, name: str, count: int) -> bool:
    """Return whether a module has this count, as an attribute or in the config its methods read."""
    if name in module.__dict__:
        return type(module.__dict__[name]) is int and module.__dict__[name] == count
    config = getattr(module, "config", None)
    return getattr(config, name, None) == count and name in _names_read(type(module))


def _names_read(cls: type[nn.Module]) -> set[str]:
    """Return the names of all attributes, of any object, that the methods of a class read."""
    own = [base for base in cls.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    methods = [m for base in own for name, m in vars(base).items() if name != "__init__"]
    codes = [inspect.unwrap(m).__code__ for m in methods if inspect.isfunction(m)]
    return {name for code in codes for name in code.co_names}
