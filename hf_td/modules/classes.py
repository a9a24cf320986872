"""Classes made at run time from a mixin and a stock class; their objects can be pickled.

A module changes its class in place, which keeps its identity and its parameters. Any class of the
installed libraries can be the stock class, so such classes are made on first use.
"""

from __future__ import annotations

from typing import Any

_MADE: dict[tuple[type, type], type] = {}


def class_of(mixin: type, stock: type, prefix: str) -> type:
    """Return the class that derives from `mixin` and `stock`; idempotent.

    Args:
        mixin: the first base class.
        stock: the second base class, that of a module.
        prefix: goes before the name of `stock` in the name of the new class.
    """
    if (mixin, stock) not in _MADE:
        own = {"__reduce_ex__": _reduce_ex, "_made_of": (mixin, stock, prefix)}
        _MADE[mixin, stock] = type(f"{prefix}{stock.__name__}", (mixin, stock), own)
    return _MADE[mixin, stock]


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """Pickle by (mixin, stock class, prefix): a generated class cannot be imported by name."""
    _, _, *state = object.__reduce_ex__(self, max(2, protocol))
    return _new, self._made_of, *state


def _new(mixin: type, stock: type, prefix: str) -> Any:
    cls: Any = class_of(mixin, stock, prefix)
    return cls.__new__(cls)
