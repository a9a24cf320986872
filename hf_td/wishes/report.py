"""Reports what was wished for, and what pruning reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_td.pruning import PruningReport


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One wish and its result.

    Attributes:
        name: `speedup`, `max_bytes` or `max_loss`.
        wanted: the value that was wished for.
        got: the value that was measured after pruning.
        how: how it was measured, in words.
    """

    name: str
    wanted: float
    got: float
    how: str

    @property
    def met(self) -> bool:
        """True if the result is at least as good as the wish; for a speedup, within 3 %."""
        if self.name == "speedup":
            return self.got >= 0.97 * self.wanted
        return self.got <= self.wanted

    def __str__(self) -> str:
        """Return one line."""
        show = _SHOWN[self.name]
        verdict = "" if self.met else ", which is short of the wish"
        return (
            f"{self.name}: wanted {show(self.wanted)}, got {show(self.got)}{verdict} ({self.how})"
        )


_SHOWN: dict[str, Any] = {
    "speedup": lambda value: f"{value:.2f} times as fast",
    "max_bytes": lambda value: f"{value / 1e6:.2f} MB",
    "max_loss": lambda value: f"{value:.2%} lost",
}


@dataclass(frozen=True, kw_only=True)
class WishReport:
    """The result of `prune_to`.

    Attributes:
        sparsity: that was found, the fraction as `prune_model` takes it.
        wishes: each wish with what was reached.
        pruning: counts of what was removed.
    """

    sparsity: float
    wishes: tuple[Wish, ...]
    pruning: PruningReport

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        wishes = [{**asdict(wish), "met": wish.met} for wish in self.wishes]
        return {"sparsity": self.sparsity, "wishes": wishes, "pruning": self.pruning.to_dict()}

    def __str__(self) -> str:
        """Return a line for each wish, and one for what was removed."""
        removed = (
            f"{self.pruning.sparsity:.1%} of the prunable weights are pruned, "
            f"{self.pruning.share_of_parameters:.1%} of all parameters"
        )
        return "\n".join([*map(str, self.wishes), removed])
