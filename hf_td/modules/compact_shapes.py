"""The layout of a compact model: the shapes and counts in which it differs from the stock model.

A layout is kept in config.json, and anybody may have written that. It is checked against the stock
model before anything is allocated, it can only make tensors smaller, and it names nothing but
parameters, routers, layers and a fixed set of counts.

This file imports nothing of hf_td that a saved model does not take along with it, see
`hf_td.modules.compact_file`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_td.modules.passing import mark_passed

VERSION = 1

# Transformers builds the model of a checkpoint in the shapes of its quantization method, so a
# compact model presents itself as one. Where nothing registers this method, transformers prints
# its name in "Unknown quantization type, got ...", and gives advice that leads to random weights.
# So the name tells the cure.
QUANT_METHOD = (
    "hf_td. This model is compact, and not quantized. To load it, `import hf_td` first, or use an "
    "Auto class with trust_remote_code=True. Do not delete quantization_config, and do not set "
    "ignore_mismatched_sizes: layers would get random weights"
)
# The first name is that of the loader, and of the method in older checkpoints.
QUANT_METHODS = ("hf_td", QUANT_METHOD)

# Counts that modules keep and their forwards read. Another spelling is another row.
QUERY_HEADS = frozenset(
    {"num_heads", "num_attention_heads", "n_heads", "n_head", "num_query_heads", "nhead"}
)
KEY_VALUE_HEADS = frozenset(
    {"num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads", "num_key_value_head"}
)
WIDTHS = frozenset({"all_head_size", "embed_dim", "inner_dim", "split_size"})
EXPERTS = frozenset({"num_experts", "num_local_experts", "n_routed_experts"})
COUNTS = QUERY_HEADS | KEY_VALUE_HEADS | WIDTHS | EXPERTS

# The sizes that classes of layers keep beside their weight: attribute to dimension of `weight`.
_SIZES: dict[str, dict[str, int]] = {
    "Linear": {"out_features": 0, "in_features": 1},
    "Conv1D": {"nx": 0, "nf": 1},
    "Embedding": {"num_embeddings": 0, "embedding_dim": 1},
}


# Characters of a value in a message.
_LONG = 200


@dataclass(frozen=True, kw_only=True)
class CompactLayout:
    """The differences of a compact model from the stock model of its config.

    Attributes:
        shapes: parameter name to its shape.
        attributes: module name to the counts that its forward reads.
        routers: names of the routers that never choose what has rows of zeros: experts that were
            pruned and not taken out. Only archives keep such models.
        passed: names of the layers of a stack that are passed by: pruned and not taken out.
        parts: model type of a part with its own config, such as a text tower, to its module name.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    routers: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return False for the layout of a stock model."""
        return bool(self.shapes or self.attributes or self.routers or self.passed)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as `quantization_config` of a model's config."""
        rest = {
            "routers": list(self.routers),
            "passed": list(self.passed),
            "parts": dict(self.parts),
        }
        return {
            "quant_method": QUANT_METHOD,
            "version": VERSION,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "attributes": {name: dict(counts) for name, counts in self.attributes.items()},
            **{name: value for name, value in rest.items() if value},
        }

    @classmethod
    def from_dict(cls, values: Any) -> CompactLayout:
        """Return the layout of a JSON form.

        Raises:
            ValueError: a field is not as `to_dict` writes it; the message names the field.
        """
        _expect(isinstance(values, Mapping), "layout", "a mapping", values)
        known = {"quant_method", "version", "shapes", "attributes"}
        found = sorted(map(str, values))
        fine = set(values) - {"routers", "passed", "parts"} == known
        _expect(fine, "layout", f"the keys {sorted(known)}", found)
        for key, wanted in (("quant_method", QUANT_METHODS), ("version", (VERSION,))):
            got = values[key]
            same = any(type(got) is type(one) and got == one for one in wanted)  # True equals 1
            _expect(same, f"layout.{key}", repr(wanted[0]), got)
        for key in ("shapes", "attributes"):
            mapping = isinstance(values[key], Mapping)
            _expect(mapping, f"layout.{key}", "a mapping", values[key])
        return cls(
            shapes={name: _shape(name, dims) for name, dims in values["shapes"].items()},
            attributes={name: _counts(name, c) for name, c in values["attributes"].items()},
            routers=_names("routers", values.get("routers", ())),
            passed=_names("passed", values.get("passed", ())),
            parts=_paths(values.get("parts", {})),
        )

    def under(self, path: str) -> CompactLayout:
        """Return what this layout says of the module at a path, by the names inside that module."""
        within = f"{path}."

        def inside(names: Mapping[str, Any]) -> dict[str, Any]:
            return {n.removeprefix(within): v for n, v in names.items() if n.startswith(within)}

        parts = {kind: name for kind, name in self.parts.items() if name.startswith(within)}
        return CompactLayout(
            shapes=inside(self.shapes),
            attributes=inside(self.attributes),
            routers=tuple(inside(dict.fromkeys(self.routers))),
            passed=tuple(inside(dict.fromkeys(self.passed))),
            parts={kind: name.removeprefix(within) for kind, name in parts.items()},
        )

    def placed(self, path: str) -> CompactLayout:
        """Return this layout by the names of a model that has the module at a path."""
        return CompactLayout(
            shapes={f"{path}.{name}": shape for name, shape in self.shapes.items()},
            attributes={f"{path}.{name}": counts for name, counts in self.attributes.items()},
            routers=tuple(f"{path}.{name}" for name in self.routers),
            passed=tuple(f"{path}.{name}" for name in self.passed),
        )

    def renamed(self, names: Mapping[str, str]) -> CompactLayout:
        """Return this layout with other names of modules; what has no other name is left out."""
        shapes = {
            f"{names[path]}.{leaf}": shape
            for (path, _, leaf), shape in ((n.rpartition("."), s) for n, s in self.shapes.items())
            if path in names
        }
        return CompactLayout(
            shapes=shapes,
            attributes={names[n]: counts for n, counts in self.attributes.items() if n in names},
            routers=tuple(names[name] for name in self.routers if name in names),
            passed=tuple(names[name] for name in self.passed if name in names),
            parts={kind: names[name] for kind, name in self.parts.items() if name in names},
        )

    def __or__(self, other: CompactLayout) -> CompactLayout:
        """Return both layouts together; where they differ, `other` counts."""
        return CompactLayout(
            shapes={**self.shapes, **other.shapes},
            attributes={**self.attributes, **other.attributes},
            routers=tuple(dict.fromkeys((*self.routers, *other.routers))),
            passed=tuple(dict.fromkeys((*self.passed, *other.passed))),
            parts={**self.parts, **other.parts},
        )

    def for_model(self, model: nn.Module) -> CompactLayout:
        """Return the layout under the names of a model: a bare base model, or one with a head.

        A model that is a part of the saved one (an encoder, a tower, fewer layers) gets a part of
        the layout. The layout of another model stays as it is, for `check` to refuse.
        """
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind is not None and kind in self.parts:
            return self.under(self.parts[kind]).for_model(model)
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        names |= {name for name, _ in model.named_modules()}

        def rename(name: str) -> str:
            spellings = (name, name.removeprefix(prefix), prefix + name)
            return next((spelling for spelling in spellings if spelling in names), name)

        shapes = {rename(name): shape for name, shape in self.shapes.items()}
        passed = tuple(map(rename, self.passed))
        is_part = not names.isdisjoint({*shapes, *passed})

        def is_there(name: str) -> bool:
            return name in names or not is_part

        attributes = {rename(name): counts for name, counts in self.attributes.items()}
        return CompactLayout(
            shapes={name: shape for name, shape in shapes.items() if is_there(name)},
            attributes={name: counts for name, counts in attributes.items() if is_there(name)},
            routers=tuple(filter(is_there, map(rename, self.routers))),
            passed=tuple(filter(is_there, passed)),
        )

    def check(self, stock: nn.Module) -> None:
        """Refuse what does not fit the stock model, which may be on the meta device.

        Raises:
            ValueError: a parameter, module or count is unknown, or larger than in the stock model.
        """
        parameters = dict(stock.named_parameters(remove_duplicate=False))
        for name, shape in self.shapes.items():
            where = f"layout.shapes[{name!r}]"
            _expect(name in parameters, where, "a parameter of the model", name)
            most = tuple(parameters[name].shape)
            fits = len(shape) == len(most) and all(a <= b for a, b in zip(shape, most, strict=True))
            _expect(fits, where, f"a shape of at most {list(most)}", shape)
        modules = dict(stock.named_modules())
        for name, counts in self.attributes.items():
            where = f"layout.attributes[{name!r}]"
            _expect(name in modules, where, "a module of the model", name)
            for attribute, count in counts.items():
                most = count_of(modules[name], attribute)
                known = isinstance(most, int) and count <= most
                _expect(known, f"{where}[{attribute!r}]", f"a count of at most {most}", count)
        for name in self.routers:
            rows = parameters.get(f"{name}.weight")
            fits = name in modules and rows is not None and rows.dim() == 2
            _expect(fits, "layout.routers", "routers of the model", name)
        for name in self.passed:
            path, _, index = name.rpartition(".")
            layers = modules.get(path)
            fits = isinstance(layers, nn.ModuleList) and index in layers._modules
            _expect(fits, "layout.passed", "layers of stacks of the model", name)


_shorter = reprlib.Repr()
_shorter.maxstring = _shorter.maxother = _LONG
_shorter.maxlist = _shorter.maxtuple = 20
_shown = _shorter.repr


def _expect(holds: bool, field: str, expected: str, got: Any) -> None:
    if not holds:
        raise ValueError(
            f"malformed compact layout: {field} should be {expected}, got {_shown(got)}"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shape(name: str, dims: Any) -> tuple[int, ...]:
    _expect(isinstance(name, str), f"layout.shapes[{name!r}]", "called by a string", name)
    fine = isinstance(dims, (list, tuple)) and len(dims) > 0 and all(_is_count(d) for d in dims)
    _expect(fine, f"layout.shapes[{name!r}]", "a list of positive integers", dims)
    return tuple(dims)


def _names(key: str, value: Any) -> tuple[str, ...]:
    fine = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    _expect(fine, f"layout.{key}", "a list of names", value)
    return tuple(value)


def _paths(value: Any) -> dict[str, str]:
    fine = isinstance(value, Mapping) and all(
        isinstance(text, str) for item in value.items() for text in item
    )
    _expect(fine, "layout.parts", "a mapping of model types to names", value)
    return dict(value)


def _counts(name: str, counts: Any) -> dict[str, int]:
    where = f"layout.attributes[{name!r}]"
    _expect(isinstance(name, str), where, "called by a string", name)
    _expect(isinstance(counts, Mapping), where, "a mapping", counts)
    for attribute, count in counts.items():
        _expect(attribute in COUNTS, where, f"of the counts {sorted(COUNTS)}", attribute)
        _expect(_is_count(count), f"{where}[{attribute!r}]", "a positive integer", count)
    return dict(counts)


def apply_layout(model: nn.Module, layout: CompactLayout) -> None:
    """Cut a stock model down to a layout, in place; each tensor keeps its first part.

    Raises:
        ValueError: the layout does not fit the model; nothing was changed.
    """
    layout.check(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, shape in layout.shapes.items():
        first = parameters[name].detach()[tuple(map(slice, shape))]
        set_parameter(model, name, first.clone())
    set_counts(model, layout.attributes)
    for name in layout.passed:
        mark_passed(model.get_submodule(name))


def set_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter, and the sizes that its layer keeps beside it.

    A value that is a parameter itself is put in as that very object.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, requires_grad=module.get_parameter(leaf).requires_grad)
    module.register_parameter(leaf, value)
    if leaf == "weight":
        classes = [cls.__name__ for cls in type(module).__mro__]
        sizes = next((_SIZES[name] for name in classes if name in _SIZES), {})
        for attribute, dim in sizes.items():
            setattr(module, attribute, value.shape[dim])


class OwnConfig:
    """The config of one module: some counts are its own, all else is as the shared config says.

    Attributes:
        shared: the config that the module has in common with the rest of its model.
    """

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "shared":  # copy and pickle ask before it is set
            raise AttributeError(name)
        return getattr(self.shared, name)


def count_of(module: nn.Module, attribute: str) -> Any:
    """Return a count that a module keeps or reads from its config; None if neither has it.

    Only the module's own counts are returned for a whole model: its config is that of all its
    modules.
    """
    whole = hasattr(module, "base_model_prefix")
    if whole or hasattr(module, attribute):
        return getattr(module, attribute, None)
    return getattr(getattr(module, "config", None), attribute, None)


def set_counts(model: nn.Module, attributes: Mapping[str, Mapping[str, int]]) -> None:
    """Set the counts that forwards read, in the module or in a config of its own."""
    for name, counts in attributes.items():
        module: Any = model.get_submodule(name)
        for attribute, count in counts.items():
            if hasattr(module, attribute):
                setattr(module, attribute, count)
                continue
            if not isinstance(module.config, OwnConfig):
                module.config = OwnConfig(module.config)
            setattr(module.config, attribute, count)
