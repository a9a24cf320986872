"""Reads from the command line what a loss is measured on: `hf-td prune --max-loss`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_td.anatomy import evaluating
from hf_td.cli.calibrating import Calibration, tokenizer_of
from hf_td.tasks.data.calibration import calibration_batches, has_several_labels, is_a
from hf_td.tasks.errors import UsageError

Batches = Sequence[Mapping[str, Tensor]]
_IGNORED = -100  # the label of a token that does not count


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric on some data.

    Attributes:
        name: `perplexity`, `accuracy`, or `micro_f1` where a row can have several labels.
        rows: number of rows that it is measured on.
        evaluate: returns the metric of a model.
        lower_is_better: True for the perplexity.
    """

    name: str
    rows: int
    evaluate: Callable[[Any], float]
    lower_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of `hf-td prune` about the metric of a model.

    Attributes:
        source: file, folder or data set to evaluate on; None for rows of the calibration which
            measure no importance.
        rows: the most rows that are used.
        calibration: the options about calibration.
    """

    source: str | None
    rows: int
    calibration: Calibration

    def check(self, wishes: Mapping[str, float]) -> None:
        """Raise UsageError for a loss without data, or data without a loss."""
        wanted = "max_loss" in wishes
        if self.source is not None and not wanted:
            raise UsageError("--evaluate is for --max-loss. Add --max-loss, or leave it out")
        if wanted and self.source is None and self.calibration.source is None:
            raise UsageError(
                "--max-loss needs data to measure the loss on. Add --evaluate with texts of a "
                "language model, or with a table of texts and labels"
            )

    def options(self, model: Any, processor: Any) -> dict[str, Any]:
        """Return the arguments of `prune_to` that evaluate, and print what is measured.

        Raises:
            UsageError: as for `metric`.
        """
        metric = self.metric(model, processor)
        print(f"max_loss is of the {metric.name} on {metric.rows} rows of {self._source}")
        return {"evaluate": metric.evaluate, "lower_is_better": metric.lower_is_better}

    def metric(self, model: Any, processor: Any) -> Metric:
        """Return the metric of a model: perplexity if it guesses text, else of a classifier.

        Raises:
            UsageError: the model has none of the two, or there are no rows.
        """
        found = _metric_of(model)
        if found is None:
            raise UsageError(
                f"there is no metric for {type(model).__name__}: perplexity is for language "
                "models, accuracy for text classification. Use prune_to or pruning_curve in "
                "Python, with evaluate=a function of the model"
            )
        batches = self._batches(model, processor)
        name, measure = found
        return Metric(
            name=name,
            rows=sum(len(batch["input_ids"]) for batch in batches),
            evaluate=lambda model: _measured(model, batches, name, measure),
            lower_is_better=name == "perplexity",
        )

    @property
    def _source(self) -> str:
        source = self.source or self.calibration.source
        assert source is not None, "checked before"
        return source

    def _batches(self, model: Any, processor: Any) -> list[dict[str, Tensor]]:
        used = self.calibration.rows if self.source is None else 0
        try:
            return calibration_batches(
                self._source,
                model,
                tokenizer_of(processor, "--evaluate"),
                rows=self.rows,
                length=self.calibration.length,
                labelled=True,
                skip=used,
                columns=self.calibration.columns,
            )
        except ValueError as error:
            held_out = f" after the {used} that measure importance. Give others by --evaluate"
            raise UsageError(f"{error}{held_out if used else ''}") from error


# From a model and a batch to the sum of a metric, and the number that it is summed over.
Measure = Callable[[Any, Mapping[str, Tensor]], tuple[float, int]]


def _metric_of(model: Any) -> tuple[str, Measure] | None:
    """Return the name of a model's metric and how to sum it, or None."""
    if is_a(model, "CAUSAL_LM"):
        return "perplexity", lambda model, batch: _log_loss(model, batch, first=1)
    if is_a(model, "MASKED_LM") or is_a(model, "SEQ_TO_SEQ_CAUSAL_LM"):
        return "perplexity", lambda model, batch: _log_loss(model, batch, first=0)
    if is_a(model, "SEQUENCE_CLASSIFICATION") and model.config.num_labels > 1:
        return ("micro_f1", _agreed) if has_several_labels(model) else ("accuracy", _hits)
    return None


@torch.no_grad()
def _measured(model: Any, batches: Batches, name: str, measure: Measure) -> float:
    """Return the mean of what is summed, or for a perplexity its exponential."""
    with evaluating(model):
        found = [measure(model, batch) for batch in batches]
    count = sum(count for _, count in found)
    if not count:
        raise ValueError(f"the rows to evaluate on have nothing to measure {name} on. Give others")
    mean = sum(total for total, _ in found) / count
    return float(torch.tensor(mean).exp()) if name == "perplexity" else mean


def _log_loss(model: Any, batch: Mapping[str, Tensor], *, first: int) -> tuple[float, int]:
    tokens = int((batch["labels"][:, first:] != _IGNORED).sum())
    return (float(model(**batch).loss) * tokens if tokens else 0.0), tokens


def _hits(model: Any, batch: Mapping[str, Tensor]) -> tuple[float, int]:
    found = _logits(model, batch).argmax(-1)
    return float((found == batch["labels"]).sum()), len(found)


def _agreed(model: Any, batch: Mapping[str, Tensor]) -> tuple[float, int]:
    """Return the two numbers whose quotient is F1 over all classes of all rows."""
    found, true = _logits(model, batch) > 0, batch["labels"] > 0
    return 2.0 * int((found & true).sum()), int(found.sum()) + int(true.sum())


def _logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits
