"""Takes layers out of the stacks of a model, in place, and its config along.

What has to follow is not looked up by name. Two stock models are built on the meta device, one of
the whole config and one of the config with fewer layers. Whatever differs between them follows:
the index of a layer, the counts and lists in every config, in nested ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from hf_td.modules.stock_models import Fields, Path, build_empty, stock_config

# The layers that go, by the dotted name of their stack.
Gone = Mapping[str, Sequence[int]]
Undo = Callable[[], None]

_MISSING = object()


@dataclass(frozen=True)
class Depth:
    """The field of a config that says how many layers a stack has.

    Attributes:
        stack: dotted name of the stack, a `ModuleList`.
        path: of the field in the model's config, such as `("text_config", "num_hidden_layers")`.
        layers: its value.
    """

    stack: str
    path: Path
    layers: int


def fields_without(config: Any, depths: Sequence[Depth], gone: Gone) -> Fields:
    """Return the fields of a config that say that layers are gone, by their paths.

    Args:
        config: the config of the model.
        depths: the fields of the stacks that lose layers.
        gone: the layers that go, by stack.
    """
    fields: dict[Path, Any] = {}
    for depth in depths:
        *parents, name = depth.path
        own = config
        for parent in parents:
            own = getattr(own, parent)
        kept = kept_of(depth.layers, gone[depth.stack])
        fields[depth.path] = len(kept)
        fields |= {(*parents, other): value for other, value in _stages(own, depth.layers, kept)}
        for other, value in vars(own).items():
            if other != name and isinstance(value, (list, tuple)):
                shorter = _shorter(other, value, depth.layers, kept)
                if shorter is not None:
                    fields[*parents, other] = shorter
    return fields


def kept_of(layers: int, gone: Sequence[int]) -> list[int]:
    """Return the indices of the layers that stay."""
    return [index for index in range(layers) if index not in gone]


def _stages(config: Any, layers: int, kept: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a backbone's config that name states between its layers.

    The state after a layer that goes is that after the last layer before it that stays.
    """
    names, places = (getattr(config, name, None) for name in ("stage_names", "out_indices"))
    if names and places and len(names) == layers + 1:
        fewer = [sum(index < place for index in kept) for place in places]
        yield "stage_names", names[: len(kept) + 1]
        yield "out_indices", fewer
        yield "out_features", [names[place] for place in fewer]


def _shorter(name: str, value: Sequence[Any], layers: int, kept: Sequence[int]) -> Any:
    """Return a list of a config without the layers that go; None if it is not about layers."""
    if not any(word in name for word in ("layer", "type", "block")):
        return None
    if len(value) == layers:
        return [value[index] for index in kept]
    numbers = all(type(entry) is int and 0 <= entry < layers for entry in value)
    if value and numbers and sorted(set(value)) == list(value):  # the indices of some layers
        return [place for place, index in enumerate(kept) if index in value]
    return None


@dataclass(frozen=True, eq=False)
class Shrinking:
    """Two stock models: of the whole config, and of a config with fewer layers.

    Attributes:
        full: the first model, on the meta device.
        small: the second one.
        gone: the layers that go, by stack.
    """

    full: nn.Module
    small: nn.Module
    gone: Gone

    @classmethod
    def of(cls, model: Any, depths: Sequence[Depth], gone: Gone) -> Shrinking:
        """Build both models.

        Raises:
            Exception: the config or the class of the model refuses fewer layers.
        """
        full, small = stock_config(model.config, {}), fields_without(model.config, depths, gone)
        return cls(
            build_empty(model, full), build_empty(model, stock_config(model.config, small)), gone
        )

    def misfit(self) -> str | None:
        """Return why a layer that stays is no layer of the smaller model; None if all fit."""
        for stack, gone in self.gone.items():
            before, after = (_layers(model, stack) for model in (self.full, self.small))
            for place, index in enumerate(kept_of(len(before), gone)):
                why = _difference(before[index], after[place], index, place)
                if why:
                    return f"layer {index} would be layer {place}, which {why}"
        shapes = {n: p.shape for n, p in self.full.named_parameters(remove_duplicate=False)}
        for name, parameter in self.small.named_parameters(remove_duplicate=False):
            if shapes.get(self.old(name)) != parameter.shape:
                return f"{name} would have another shape"
        return None

    def apply(self, model: nn.Module) -> Undo:
        """Take the layers out of a model of the whole config, in place; return what undoes it."""
        steps: list[Undo] = []
        for stack, gone in self.gone.items():
            layers = _layers(model, stack)
            kept = kept_of(len(layers), gone)
            steps.append(_restorer(layers, "_modules"))
            layers._modules = {str(n): layers._modules[str(i)] for n, i in enumerate(kept)}
        for name, after in self.small.named_modules():
            module, before = model.get_submodule(name), self.full.get_submodule(self.old(name))
            steps += _follow(module, vars(before), vars(after), _plain)
            for own, was, now in _configs(module, before, after):
                steps += _follow(own, vars(was), vars(now), _no_config)

        def undo() -> None:
            for step in reversed(steps):
                step()

        return undo

    def old(self, name: str) -> str:
        """Return the name in the full model of a module in the smaller one."""
        for stack, gone in self.gone.items():
            if name.startswith(f"{stack}."):
                place, *rest = name.removeprefix(f"{stack}.").split(".")
                kept = kept_of(len(_layers(self.full, stack)), gone)
                return ".".join([stack, str(kept[int(place)]), *rest])
        return name


def _difference(before: nn.Module, after: nn.Module, index: int, place: int) -> str | None:
    """Return in what a layer differs from the layer that is to be in its place, but its index."""
    old, new = (_computing(layer) for layer in (before, after))
    for name in sorted(old.keys() ^ new.keys()):
        return f"has {'a' if name in new else 'no'} module {name}"
    for name, module in old.items():
        if type(module) is not type(new[name]):
            return f"has {type(new[name]).__name__} as {name or 'its class'}"
        for key, value in vars(module).items():
            other = vars(new[name]).get(key, _MISSING)
            if _plain(value) and value != other and (value, other) != (index, place):
                return f"has another {'.'.join(filter(None, [name, key]))}"
    names = [dict(layer.named_parameters()).keys() for layer in (before, after)]
    for name in sorted(names[0] ^ names[1]):
        return f"has {'a' if name in names[1] else 'no'} parameter {name}"
    return None


def _computing(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a layer that eval mode computes with, by name.

    The rate of stochastic depth grows from layer to layer. In memory each layer keeps its own.
    """
    named = layer.named_modules()
    return {name: module for name, module in named if "drop_path" not in name.split(".")}


def _layers(model: nn.Module, stack: str) -> Any:
    return model.get_submodule(stack)


def _follow(
    owner: Any, before: Mapping[str, Any], after: Mapping[str, Any], counts: Callable[[Any], bool]
) -> Iterator[Undo]:
    """Give an object the attributes that differ between two others; yield what undoes it."""
    for name, value in after.items():
        if counts(value) and name in before and before[name] != value and name in vars(owner):
            yield _restorer(owner, name)
            vars(owner)[name] = value


def _restorer(owner: Any, name: str) -> Undo:
    value = vars(owner)[name]
    return lambda: vars(owner).__setitem__(name, value)


def _configs(*modules: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Yield the configs of three modules at one place, and those nested in them, place by place."""
    configs = [getattr(module, "config", None) for module in modules]
    own = getattr(configs[0], "shared", configs[0])  # of a module with counts of its own
    yield from _nested(own, *configs[1:])


def _nested(*configs: Any) -> Iterator[tuple[Any, ...]]:
    if all(isinstance(config, PreTrainedConfig) for config in configs):
        yield configs
        for name in vars(configs[0]):
            yield from _nested(*(vars(config).get(name) for config in configs))


def _plain(value: Any) -> bool:
    """Return True for numbers, texts, and lists of them."""
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _no_config(value: Any) -> bool:
    return not isinstance(value, PreTrainedConfig)
