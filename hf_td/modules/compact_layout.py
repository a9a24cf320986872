"""The record of a compact model: which tensors and which attributes differ from the stock model.

It is kept in config.json and read from files that anybody may have written. So it is data: it is
checked against the stock model before anything is allocated, it can only make tensors smaller,
and it names nothing but parameters, routers and a fixed set of counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from hf_td.modules.routing import mark_pruned, marked_routers

VERSION = 1

# The key under which a compact model's config keeps its layout.
LAYOUT_KEY = "quantization_config"

# Transformers builds the model of a checkpoint in the shapes of its quantization method, so a
# compact model presents itself as one; `hf_td.hub.loading` is what stands behind this name.
QUANT_METHOD = "hf_td"

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


@dataclass(frozen=True, kw_only=True)
class CompactLayout:
    """How a compact model differs from the stock model of its config.

    Attributes:
        shapes: parameter name to its shape.
        attributes: module name to the counts that its forward reads.
        routers: names of the routers that never choose what has rows of zeros: experts that were
            pruned, and are not taken out yet. Only archives keep such models.
    """

    shapes: Mapping[str, tuple[int, ...]]
    attributes: Mapping[str, Mapping[str, int]]
    routers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as `quantization_config` of a model's config."""
        routers = {"routers": list(self.routers)} if self.routers else {}
        return {
            "quant_method": QUANT_METHOD,
            "version": VERSION,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "attributes": {name: dict(counts) for name, counts in self.attributes.items()},
            **routers,
        }

    @classmethod
    def from_dict(cls, values: Any) -> CompactLayout:
        """A layout from its JSON form.

        Raises:
            ValueError: anything is not of the form that `to_dict` writes; the field is named.
        """
        _expect(isinstance(values, Mapping), "layout", "a mapping", values)
        known = {"quant_method", "version", "shapes", "attributes"}
        _expect(
            set(values) - {"routers"} == known,
            "layout",
            f"the keys {sorted(known)}",
            sorted(map(str, values)),
        )
        for field, wanted in (("quant_method", QUANT_METHOD), ("version", VERSION)):
            got = values[field]
            same = type(got) is type(wanted) and got == wanted  # True and 1.0 equal 1
            _expect(same, f"layout.{field}", repr(wanted), got)
        for field in ("shapes", "attributes"):
            _expect(
                isinstance(values[field], Mapping), f"layout.{field}", "a mapping", values[field]
            )
        return cls(
            shapes={name: _shape(name, dims) for name, dims in values["shapes"].items()},
            attributes={name: _counts(name, c) for name, c in values["attributes"].items()},
            routers=_names(values.get("routers", ())),
        )

    def for_model(self, model: nn.Module) -> CompactLayout:
        """The layout under the names of this model, a bare base model or one with a head.

        A model that is but a part of what was saved (an encoder, fewer layers) has a part of it;
        what is of another model stays as it is, for `check` to refuse.
        """
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        names |= {name for name, _ in model.named_modules()}

        def rename(name: str) -> str:
            spellings = (name, name.removeprefix(prefix), prefix + name)
            return next((spelling for spelling in spellings if spelling in names), name)

        shapes = {rename(name): shape for name, shape in self.shapes.items()}
        is_part = not names.isdisjoint(shapes)

        def is_there(name: str) -> bool:
            return name in names or not is_part

        attributes = {rename(name): counts for name, counts in self.attributes.items()}
        return CompactLayout(
            shapes={name: shape for name, shape in shapes.items() if is_there(name)},
            attributes={name: counts for name, counts in attributes.items() if is_there(name)},
            routers=tuple(filter(is_there, map(rename, self.routers))),
        )

    def check(self, stock: nn.Module) -> None:
        """Refuse what does not fit the stock model (which may be on the meta device).

        Raises:
            ValueError: a parameter, module or count is unknown, or larger than in the stock model.
        """
        parameters = dict(stock.named_parameters(remove_duplicate=False))
        for name, shape in self.shapes.items():
            _expect(
                name in parameters, f"layout.shapes[{name!r}]", "a parameter of the model", name
            )
            most = tuple(parameters[name].shape)
            fits = len(shape) == len(most) and all(a <= b for a, b in zip(shape, most, strict=True))
            _expect(fits, f"layout.shapes[{name!r}]", f"a shape of at most {list(most)}", shape)
        modules = dict(stock.named_modules())
        for name, counts in self.attributes.items():
            _expect(name in modules, f"layout.attributes[{name!r}]", "a module of the model", name)
            for attribute, count in counts.items():
                most = count_of(modules[name], attribute)
                known = isinstance(most, int) and count <= most
                where = f"layout.attributes[{name!r}][{attribute!r}]"
                _expect(known, where, f"a count of at most {most}", count)
        for name in self.routers:
            rows = parameters.get(f"{name}.weight")
            fits = name in modules and rows is not None and rows.dim() == 2
            _expect(fits, "layout.routers", "routers of the model", name)


def layout_of_model(model: nn.Module) -> CompactLayout | None:
    """The layout that a model's config records, or None for a model that is not compact."""
    recorded = getattr(getattr(model, "config", None), LAYOUT_KEY, None)
    ours = isinstance(recorded, dict) and recorded.get("quant_method") == QUANT_METHOD
    return CompactLayout.from_dict(recorded) if ours else None


def record_layout(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    attributes: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> None:
    """Add what changed to the layout in the model's config, and the routers as they are now.

    What is saved then loads again after `import hf_td`, and not without it: the shapes do not fit.
    A model with marked routers has the stock shapes, and would load as if nothing were gone, so its
    `save_pretrained` refuses until they are taken out. A model without a config keeps no record.
    """
    _guard_saving(model)
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    known = layout_of_model(model) or CompactLayout(shapes={}, attributes={})
    layout = CompactLayout(
        shapes={**known.shapes, **shapes},
        attributes={**known.attributes, **attributes},
        routers=tuple(marked_routers(model)),
    )
    if layout != CompactLayout(shapes={}, attributes={}):
        setattr(config, LAYOUT_KEY, layout.to_dict())
    elif layout_of_model(model) is not None:
        delattr(config, LAYOUT_KEY)


def _guard_saving(model: nn.Module) -> None:
    """Let a model, and the models in it, refuse to be saved while experts are only marked."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained"):
            module.__dict__.pop("save_pretrained", None)
            if marked_routers(module):
                module.__dict__["save_pretrained"] = partial(_save_unless_marked, module)


def _save_unless_marked(model: Any, *args: Any, **kwargs: Any) -> Any:
    marked = list(marked_routers(model))
    if marked:
        raise ValueError(
            f"experts are gone from {marked[0]}, but not taken out, which no checkpoint of the "
            "stock shapes can say: the router would choose them again when it is loaded; call "
            "compact_model(model) first, or write it with export_model"
        )
    return type(model).save_pretrained(model, *args, **kwargs)


def _expect(holds: bool, field: str, expected: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"malformed compact layout: {field} should be {expected}, got {got!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shape(name: str, dims: Any) -> tuple[int, ...]:
    _expect(isinstance(name, str), f"layout.shapes[{name!r}]", "called by a string", name)
    fine = isinstance(dims, (list, tuple)) and len(dims) > 0 and all(_is_count(d) for d in dims)
    _expect(fine, f"layout.shapes[{name!r}]", "a list of positive integers", dims)
    return tuple(dims)


def _names(value: Any) -> tuple[str, ...]:
    fine = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    _expect(fine, "layout.routers", "a list of names", value)
    return tuple(value)


def _counts(name: str, counts: Any) -> dict[str, int]:
    where = f"layout.attributes[{name!r}]"
    _expect(isinstance(name, str), where, "called by a string", name)
    _expect(isinstance(counts, Mapping), where, "a mapping", counts)
    for attribute, count in counts.items():
        _expect(attribute in COUNTS, where, f"of the counts {sorted(COUNTS)}", attribute)
        _expect(_is_count(count), f"{where}[{attribute!r}]", "a positive integer", count)
    return dict(counts)


def apply_layout(model: nn.Module, layout: CompactLayout) -> None:
    """Make a stock model compact, in place, with empty tensors where shapes change.

    Raises:
        ValueError: the layout does not fit the model; nothing was changed.
    """
    layout.check(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, shape in layout.shapes.items():
        set_parameter(model, name, parameters[name].detach().new_empty(shape))
    set_counts(model, layout.attributes)


def mark_routers(model: nn.Module, layout: CompactLayout) -> None:
    """Let the routers of a loaded model leave out what the layout says is gone."""
    for name in layout.routers:
        mark_pruned(model.get_submodule(name))
    _guard_saving(model)


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
        for attribute, dim in _sizes_of(module).items():
            setattr(module, attribute, value.shape[dim])


class OwnConfig:
    """The config of one module: some counts are its own, all else is as the shared config says.

    Attributes:
        shared: the config that the module has in common with the rest of its model.
    """

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "shared":  # asked for by copy and pickle
            raise AttributeError(name)
        return getattr(self.shared, name)


def count_of(module: nn.Module, attribute: str) -> Any:
    """A count that a module keeps itself, or else reads from its config; None if neither has it.

    The config of a whole model is that of all its modules, and none of them owns it.
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
            else:
                _set_in_config(module, attribute, count)


def _set_in_config(module: Any, attribute: str, count: int) -> None:
    if not isinstance(module.config, OwnConfig):
        module.config = OwnConfig(module.config)
    setattr(module.config, attribute, count)


def _sizes_of(module: nn.Module) -> dict[str, int]:
    classes = [cls.__name__ for cls in type(module).__mro__]
    return next((_SIZES[name] for name in classes if name in _SIZES), {})
