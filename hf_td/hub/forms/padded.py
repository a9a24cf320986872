"""The form `padded`: zeros up to the widest layer, or to what a stock config can say."""

from __future__ import annotations

from collections.abc import Sequence

from hf_td.anatomy import Holder
from hf_td.hub.forms.stock import Stock


class Padded(Stock):
    """A stock checkpoint that may keep pruned units, as zeros."""

    def _excuse(self, wider: Sequence[Holder], reason: str, *, keep_heads: bool) -> str:
        """Accept every width."""
        return ""

    def limitation(self, *, all_stored: bool) -> str | None:
        """Return the card's sentence about zeros; a padded export always holds some."""
        stored = "Part of what was removed is stored as zeros."
        return super().limitation(all_stored=all_stored) or stored


FORM = Padded()
