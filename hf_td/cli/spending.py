"""Reads from the command line how a sparsity is spent, and what is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_td.pruning import Times
from hf_td.pruning.budgets import Currency
from hf_td.tasks.errors import UsageError
from hf_td.wishes import measure_times


@dataclass(frozen=True, kw_only=True)
class Spending:
    """The options of `hf-td prune` about budgets and times.

    Attributes:
        budget: `uniform` or `global`.
        of: the currency of a global budget, or None.
        times: file with the table of times, which is written if there is none; None for no file.
        batch: number of rows of the inputs that are timed.
        length: number of tokens of a row.
        threads: of torch, or None.
    """

    budget: Literal["uniform", "global"]
    of: Currency | None
    times: Path | None
    batch: int
    length: int
    threads: int | None

    def check(self) -> None:
        """Raise UsageError for options that have no effect together."""
        if self.of is not None and self.budget != "global":
            raise UsageError(f"--of {self.of} is for a global budget. Add --budget global")
        if self.times is not None and self.of != "latency":
            raise UsageError(
                "--times is for --budget global --of latency. Add both, or leave out --times"
            )

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments about what is timed."""
        return {"batch": self.batch, "length": self.length, "threads": self.threads}

    @property
    def budget_options(self) -> dict[str, Any]:
        """The arguments about the budget that need no model."""
        return {"budget": self.budget, "of": self.of}

    def options(self, model: Any, read: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments about the budget, with a table of times where one is needed."""
        if self.of != "latency":
            return self.budget_options
        return {**self.budget_options, "times": self._table(model, read)}

    def _table(self, model: Any, read: Mapping[str, Any]) -> Times:
        if self.times is not None and self.times.is_file():
            return Times.load(self.times)
        table = measure_times(model, **self.shape, **read)
        print(table)
        if self.times is not None:
            table.save(self.times)
            print(f"the table of times is in {self.times}")
        return table
