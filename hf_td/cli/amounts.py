"""Reads from the command line how much of a model is to be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_td.files import read_json
from hf_td.tasks.errors import UsageError
from hf_td.tasks.sizes import parse_bytes


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is pruned; exactly one way is given.

    Attributes:
        sparsity: a fraction, or for each part one or a number of units, or None.
        units: units by name, as for `prune_units`, or None.
        wishes: arguments of `prune_to`; empty without a wish.
    """

    sparsity: float | dict[str, float] | None
    units: dict[str, Any] | None
    wishes: dict[str, float]

    @classmethod
    def of(
        cls,
        sparsity: Sequence[str],
        units: Path | None,
        speedup: float | None,
        max_bytes: str | None,
        max_loss: float | None,
    ) -> Amount:
        """Return the amount that options give.

        Raises:
            UsageError: none or several ways are given, or one cannot be read.
        """
        wishes: dict[str, float] = {}
        if speedup is not None:
            wishes["speedup"] = speedup
        if max_bytes is not None:
            wishes["max_bytes"] = parse_bytes(max_bytes)
        if max_loss is not None:
            wishes["max_loss"] = max_loss
        if sum([bool(sparsity), units is not None, bool(wishes)]) != 1:
            raise UsageError(
                "give one of --sparsity, --units, and wishes (--speedup, --max-bytes, --max-loss): "
                "how much to prune"
            )
        return cls(
            sparsity=read_sparsity(sparsity) if sparsity else None,
            units=None if units is None else read_units(units),
            wishes=wishes,
        )

    def __str__(self) -> str:
        """Return the sparsity in words."""
        if isinstance(self.sparsity, dict):
            return ", ".join(f"{part} {_words(one)}" for part, one in self.sparsity.items())
        return "" if self.sparsity is None else f"{self.sparsity:.1%}"


def read_sparsity(words: Sequence[str]) -> float | dict[str, float]:
    """Return the fraction that one word gives, or the amounts of parts that `PART=AMOUNT` give."""
    try:
        if len(words) == 1 and "=" not in words[0]:
            return float(words[0])
        pairs = [one.split("=") for word in words for one in word.split(",")]
        found = {part: _number(amount) for part, amount in pairs}
    except ValueError as error:
        raise UsageError(
            "--sparsity is a fraction, or for each part one or a number of units, such as "
            f"attention=0.5 feed_forward=0.75 layers=2; got {' '.join(words)}"
        ) from error
    if len(found) < len(pairs):
        raise UsageError(f"--sparsity names a part twice: {' '.join(words)}")
    return found


def _number(word: str) -> float:
    """Return an integer as a number of units, and any other number as a fraction."""
    return int(word) if word.isdecimal() else float(word)


def _words(amount: float) -> str:
    return str(amount) if isinstance(amount, int) else f"{amount:.1%}"


def read_units(file: Path) -> dict[str, Any]:
    """Return what `prune_units` takes from a JSON file; numbers of blocks are its keys."""
    try:
        kinds = read_json(file)
        return {kind: _numbered(named) for kind, named in kinds.items()}
    except FileNotFoundError as error:
        raise UsageError(f"the file {file} does not exist. Give an existing file.") from error
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{file} holds no units: {error}. Expected is a JSON object such as "
            '{"heads": {"0": [1, 3]}, "neurons": {"5": [0, 7]}}'
        ) from error


def _numbered(named: Any) -> Any:
    if not isinstance(named, dict):
        return named
    return {int(key) if key.isdigit() else key: units for key, units in named.items()}
