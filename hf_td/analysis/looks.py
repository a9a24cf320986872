"""Gives every method one colour, in all figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, distinct for people with any colour vision; the markers help in print.
# Blue and vermilion, the most different, come first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Darker or duller ones, for more methods than Okabe and Ito have colours for.
_MORE = ("#882255", "#999933", "#332288", "#AA4499", "#117733", "#44AA99", "#6B7B8C", "#8B5A2B")
PALETTE = (*COLOURS, *_MORE)

# The colour of each method. A variant, which has words after a comma, has that of its method.
METHOD_COLOURS = {
    "plain fine-tuning": "#000000",
    "targeted dropout": "#0072B2",
    "gradual magnitude": "#D55E00",
    "movement pruning": "#009E73",
    "soft movement pruning": "#CC79A7",
    "L0": "#E69F00",
    "L1": "#56B4E9",
    "variational dropout": "#882255",
    "Smallify": "#999933",
    "dropout": "#332288",
    "quantal synaptic dilution": "#AA4499",
    "random subnetwork": "#117733",
    "one-shot": "#44AA99",
    "one-shot, activation": "#44AA99",
    "one-shot, magnitude": "#6B7B8C",
    "one-shot, Taylor": "#AA4499",
    "one-shot, activation, least squares": "#8B5A2B",
    "one-shot, first and last layer spared": "#8B5A2B",
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# The lines of a method and of its variants, in order; those of variants have hollow markers.
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Look:
    """The look of a curve.

    Attributes:
        colour: of the method, as `#rrggbb`.
        marker: of matplotlib.
        dashes: line style of matplotlib.
        hollow: True for a variant of a method.
    """

    colour: str
    marker: str
    dashes: Any
    hollow: bool

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        filling = "white" if self.hollow else self.colour
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": filling,
            "linestyle": self.dashes,
            "markersize": 6,
            "linewidth": 2,
        }


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Return the look of each method.

    A method of `METHOD_COLOURS` has its colour. Any other gets one that no method here has, by its
    place among `names`. A name whose colour is taken by a name before it is a variant.

    Args:
        names: of all methods of all figures that are read together, in order.
    """
    own = {name: _registered(name) for name in names}
    taken = {colour for colour in own.values() if colour is not None}
    free = [colour for colour in PALETTE if colour not in taken]
    others = [name for name, colour in own.items() if colour is None]
    own |= {name: free[place % len(free)] for place, name in enumerate(others)}
    looks: dict[str, Look] = {}
    for name, colour in own.items():
        assert colour is not None
        before = sum(look.colour == colour for look in looks.values())
        marker = _MARKERS[PALETTE.index(colour) % len(_MARKERS)]
        looks[name] = Look(colour, marker, _DASHES[before % len(_DASHES)], before > 0)
    return looks


def _registered(name: str) -> str | None:
    """Return the colour of a method or of the method that it is a variant of; None if unknown."""
    method = name.partition(", ")[0].partition(" (")[0]
    return METHOD_COLOURS.get(name) or METHOD_COLOURS.get(method)
