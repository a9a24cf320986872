"""Takes units out of the tensors and attributes of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hf_td.anatomy import Block, Companion, Holder, Mixture, Projection, parameter_names
from hf_td.kernels.reductions import select
from hf_td.modules.compact_shapes import EXPERTS, KEY_VALUE_HEADS, QUERY_HEADS, WIDTHS
from hf_td.ranking.sites import by_feature

# Parameter name and dimension to what goes along it: `(size,)`, or `(experts, size)`.
Cuts = dict[tuple[str, int], Tensor]


def cut_parameters(model: nn.Module, kept: Mapping[Holder, Tensor]) -> dict[str, Tensor]:
    """The smaller tensor of each parameter that loses something, by name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    smaller: dict[str, Tensor] = {}
    for (name, dim), gone in cuts_of(model, kept).items():
        smaller[name] = without(smaller.get(name, parameters[name].detach()), dim, gone)
    return smaller


def smaller_shapes(model: nn.Module, kept: Mapping[Holder, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of what `cut_parameters` gives."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes: dict[str, list[int]] = {}
    for (name, dim), gone in cuts_of(model, kept).items():
        left = int((~gone).sum(-1).max())
        shapes.setdefault(name, list(parameters[name].shape))[dim] = left
    return {name: tuple(shape) for name, shape in shapes.items()}


def without(tensor: Tensor, dim: int, gone: Tensor) -> Tensor:
    """A tensor less some of its slices; with a row for each expert, those of each expert."""
    stays = _places(~gone, tensor, dim)
    if gone.dim() == 1:
        return select(tensor, dim, stays.flatten())
    return tensor.take_along_dim(stays, dim).contiguous()


def take(tensor: Tensor, dim: int, gone: Tensor) -> Tensor:
    """What `without` leaves out."""
    return without(tensor, dim, ~gone)


def join(smaller: Tensor, dim: int, gone: Tensor, taken: Tensor | None) -> Tensor:
    """The tensor of which `without` left `smaller`; what it left out is `taken`, or zeros."""
    shape = list(smaller.shape)
    shape[dim] = gone.shape[-1]
    whole = smaller.new_zeros(shape)
    for part, chosen in ((smaller, ~gone), (taken, gone)):
        if part is not None:
            index = _places(chosen, smaller, dim)
            whole.scatter_(dim, index.expand_as(part), part)
    return whole


def _places(chosen: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """The indices of what is chosen, of as many dimensions as the tensor."""
    shape = [1] * tensor.dim()
    if chosen.dim() > 1:
        shape[0] = len(chosen)
    shape[dim] = -1
    return chosen.nonzero()[:, -1].to(tensor.device).view(shape)


def cuts_of(model: nn.Module, kept: Mapping[Holder, Tensor]) -> Cuts:
    """What goes of each parameter; a fused layer collects it from all its roles."""
    sizes = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False)}
    found: Cuts = {}
    for block, units in kept.items():
        gone = torch.ones(*units.shape[:-1], block.units, dtype=torch.bool).scatter(-1, units, 0)
        if gone.any():
            for name, dim, slices in _slices(model, block):
                features = by_feature(gone, slices, sizes[name][dim])
                found[name, dim] = found.get((name, dim), False) | features
    return found


def _slices(model: nn.Module, block: Holder) -> Iterator[tuple[str, int, Projection | Companion]]:
    """Every parameter of a block with the dimension that runs over features of its units."""
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
    """The counts that attention modules and mixtures have to know, by module name."""
    counts: dict[str, dict[str, int]] = {}
    for block, units in kept.items():
        if block.part != "feed_forward" and len(units) < block.units:
            for name in _owners(block):
                found = _counts_of(model.get_submodule(name), block, len(units))
                if found:
                    counts[name] = found
    return counts


def _owners(block: Holder) -> Iterator[str]:
    """The modules of a block that are no projections: where a forward keeps its counts."""
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
    heads = block.units * _queries_per_unit(block)
    groups = [(QUERY_HEADS, heads), (KEY_VALUE_HEADS, block.units), (WIDTHS, width)]
    return {
        name: before * units // block.units
        for names, before in groups
        for name in sorted(names)
        if _knows(module, name, before)
    }


def _knows(module: nn.Module, name: str, count: int) -> bool:
    """Whether a module has this count, as an attribute or in the config that its methods read."""
    if name in module.__dict__:
        return type(module.__dict__[name]) is int and module.__dict__[name] == count
    config = getattr(module, "config", None)
    return getattr(config, name, None) == count and name in _names_read(type(module))


def _names_read(cls: type[nn.Module]) -> set[str]:
    """The attributes of anything that the methods of a class read after it was built."""
    own = [base for base in cls.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    methods = [m for base in own for name, m in vars(base).items() if name != "__init__"]
    codes = [inspect.unwrap(m).__code__ for m in methods if inspect.isfunction(m)]
    return {name for code in codes for name in code.co_names}


def _queries_per_unit(block: Block) -> int:
    rows = {p.role: p.features.shape[1] for p in block.producers}
    return rows["q"] // rows["k"]
