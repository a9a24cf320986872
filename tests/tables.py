"""Markdown tables as tests read them."""

from __future__ import annotations

import re


def unpadded(text: str) -> str:
    """Return text with one space for each run of spaces: tables pad their cells."""
    return re.sub(" +", " ", text)
