"""Classes that are made of a mixin and a stock class while a program runs, and can be pickled.

A module changes its class in place, so that it stays the same object; which stock classes there are
is known when they are met.
"""

from __future__ import annotations

from typing import Any

_MADE: dict[tuple[type, type], type] = {}


def class_of(mixin: type, stock: type, prefix: str) -> type:
    """The class of both, always the same one.

    Args:
        mixin: comes before the stock class.
        stock: the class of a module.
        prefix: of its name.
    """
    if (mixin, stock) not in _MADE:
        own = {"__reduce_ex__": _reduce_ex, "_made_of": (mixin, stock, prefix)}
        _MADE[mixin, stock] = type(f"{prefix}{stock.__name__}", (mixin, stock), own)
    return _MADE[mixin, stock]


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """What a pickle or a copy is made of: what the class is of, since its name leads nowhere."""
    _, _, *state = object.__reduce_ex__(self, max(2, protocol))
    return _new, self._made_of, *state


def _new(mixin: type, stock: type, prefix: str) -> Any:
    cls: Any = class_of(mixin, stock, prefix)
    return cls.__new__(cls)
