"""Makes drawings of matplotlib part of a page: text stays text, colours follow light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from hf_td.analysis.looks import PALETTE
from hf_td.extras import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of drawings that stand for variables of the page's style.
INK, FAINT, PAPER = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"}
_VARIABLES |= {"#000000": "var(--ink)", "#ffffff": "var(--paper)"}
_METHODS = {colour.lower() for colour in PALETTE}
_STYLE: Any = {
    "svg.fonttype": "none",  # text that can be read, searched and scaled
    "svg.hashsalt": "hf_td",  # equal input gives equal ids
    "text.parse_math": False,  # labels come from files, and a $ is a $
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "grid.alpha": 0.35,
    "axes.grid": True,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_FONT = re.compile(r"(font: [^;\"']*?px) [^;\"]*")
_COLOUR = re.compile(r"((?:fill|stroke): )(#[0-9a-f]{6})\b")


def draw_svg(draw: Callable[[], Figure], name: str, title: str, description: str) -> str:
    """Draw a figure and return it as an `<svg>` element with an accessible name.

    Args:
        draw: returns the figure.
        name: unique on the page; begins the ids in the drawing.
        title: its name for people who do not see it.
        description: what it shows, in words.
    """
    with extra("plots"):
        import matplotlib
    file = StringIO()
    with matplotlib.rc_context(_STYLE):
        unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw().savefig(file, format="svg", metadata=unknown)
    return _inline(file.getvalue(), name, title, description)


def _inline(text: str, name: str, title: str, description: str) -> str:
    body = text[text.index("<svg") :]
    opening, _, inside = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None
    named = _ID.sub(rf"\g<1>{name}-", re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.S))
    drawn = _COLOUR.sub(_colour, _FONT.sub(r"\1 system-ui, sans-serif", named))
    return (
        f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>{drawn.strip()}'
    )


def _colour(found: re.Match[str]) -> str:
    """Return a variable of the page, or a method's colour, which the page lightens in the dark."""
    name, colour = found.groups()
    if colour in _VARIABLES:
        return name + _VARIABLES[colour]
    return (
        f"{name}color-mix(in srgb, {colour}, white var(--lift))" if colour in _METHODS else found[0]
    )
