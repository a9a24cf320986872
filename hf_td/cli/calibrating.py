"""Reads from the command line what importance is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_td.pruning.compensation import Compensation
from hf_td.tasks.data.calibration import BY_NAME, Columns, calibration_batches
from hf_td.tasks.errors import UsageError

_BY_GRADIENT = ("taylor", "movement")
_ON_TEXTS = (*_BY_GRADIENT, "reap")
_ON_NOTHING = ("magnitude", "random")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The options of `hf-td prune` about calibration.

    Attributes:
        source: file, folder or data set with texts; None without a calibration.
        rows: number of rows that are used.
        length: the most tokens of a row.
        compensate: how removed units are compensated for, or None.
        columns: of a table, those that are read.
    """

    source: str | None
    rows: int
    length: int
    compensate: Compensation | None
    columns: Columns = BY_NAME

    def check(self, importance: str | None, *, evaluates: bool = False) -> None:
        """Raise UsageError for options that need a calibration, or one that nothing reads.

        Args:
            importance: the option, if it is given.
            evaluates: True if a loss is measured on texts of the calibration.
        """
        if self.source is not None:
            if not self._is_read(importance) and not evaluates:
                raise UsageError(
                    f"--importance {importance} measures nothing on texts. Leave --calibration "
                    "out, or give another importance, such as activation"
                )
            return
        needs = "--compensate" if self.compensate else f"--importance {importance}"
        if self.compensate or importance in _ON_TEXTS:
            raise UsageError(
                f"{needs} needs texts. Add --calibration with a file of text, a table, a folder or "
                "an id on the Hub"
            )

    def options(self, model: Any, processor: Any, importance: str | None) -> dict[str, Any]:
        """Return the arguments of `prune_model` that a calibration gives."""
        if self.source is None or not self._is_read(importance):
            return {}
        batches: Any = calibration_batches(
            self.source,
            model,
            tokenizer_of(processor, "--calibration"),
            rows=self.rows,
            length=self.length,
            labelled=importance in _BY_GRADIENT,
            columns=self.columns,
        )
        found = {"calibration": batches, "compensate": self.compensate or False}
        if importance is None and self.compensate is None:  # or the texts would have no effect
            found["importance"] = "activation"
        return found

    def _is_read(self, importance: str | None) -> bool:
        return self.compensate is not None or importance not in _ON_NOTHING


def tokenizer_of(processor: Any, option: str) -> Any:
    """Return the tokenizer of a processor, or the tokenizer that it is.

    Raises:
        UsageError: there is none, and an option needs it.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        raise UsageError(f"{option} needs the tokenizer of the model. Save it beside it")
    return tokenizer
