"""Measures a pruned model by what its user sees: time, bytes, loss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from hf_td.analysis.timing import time_in_turn
from hf_td.anatomy import Anatomy, evaluating
from hf_td.files import folder_bytes
from hf_td.hub import Latency, export_model, measure_latency
from hf_td.hub.export import cut_to_form, shell_of
from hf_td.wishes.inputs import sized_inputs, threads_of_torch

# Rounds of a step of the search, and of the last measurement.
_ROUNDS, _LAST_ROUNDS = 9, 30
# A card can say more in the end than in the search: the name of its folder, and metrics.
_CARD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The inputs that a model is timed on.

    Attributes:
        batch: number of rows.
        length: number of tokens of each row.
        threads: of torch; None leaves their number.
    """

    batch: int = 1
    length: int = 128
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a model is exported: arguments of `export_model`."""

    form: str = "auto"
    keep_heads_stock: bool = False
    multiple_of: int = 8
    processing_class: Any = None
    modules_from: str | Path | None = None


class Measures:
    """The measurements of one model while it is pruned more and less.

    Args:
        model: is pruned in place between the measurements.
        anatomy: its reading.
        example_inputs: of one forward, or None; they are timed if given.
        shape: of the inputs that are timed otherwise.
        writing: how the model is exported.
        evaluate: returns the metric of a model, or None.
        lower_is_better: True for a metric such as a loss.
    """

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        example_inputs: Mapping[str, Any] | None,
        *,
        shape: Shape,
        writing: Writing,
        evaluate: Callable[[Any], float] | None,
        lower_is_better: bool,
    ) -> None:
        self.model = model
        self.reading: dict[str, Any] = {"anatomy": anatomy, "example_inputs": example_inputs}
        self.shape, self.writing = shape, writing
        self.evaluate, self.lower_is_better = evaluate, lower_is_better

    @cached_property
    def whole(self) -> Any:
        """A copy in full width that shares all tensors with the model."""
        return shell_of(self.model)

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs that are timed."""
        given = self.reading["example_inputs"]
        return given or sized_inputs(self.whole, self.shape.batch, self.shape.length)

    @cached_property
    def whole_metric(self) -> float:
        """The metric before pruning; it must be read before the model is pruned."""
        metric = self._metric()
        if metric == 0:
            raise ValueError(
                "the metric of the whole model is 0, and max_loss is a fraction of it. Give an "
                "evaluation in which the model is better than that"
            )
        return metric

    def _metric(self) -> float:
        """Return the metric of the model in eval mode."""
        assert self.evaluate is not None
        with evaluating(self.model):
            value: Any = self.evaluate(self.model)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"evaluate returned {value!r}. It returns a number") from None

    def _cut(self) -> Any:
        writing = self.writing
        return cut_to_form(
            self.model,
            form=writing.form,
            keep_heads_stock=writing.keep_heads_stock,
            multiple_of=writing.multiple_of,
            check=False,
            **self.reading,
        ).model

    def time(self) -> float:
        """Return the time of a forward as it will be exported, over that of the whole model."""
        cut = self._cut()
        calls = [lambda: self.whole(**self.inputs), lambda: cut(**self.inputs)]
        with (
            torch.no_grad(),
            evaluating(self.whole),
            evaluating(cut),
            threads_of_torch(self.shape.threads),
        ):
            times = time_in_turn(calls, rounds=_ROUNDS, warmup=2, device=self.model.device)
        ratios = sorted(after / before for before, after in zip(*times, strict=True))
        return ratios[len(ratios) // 2]

    def latency(self) -> Latency:
        """Return a longer measurement of both models."""
        with threads_of_torch(self.shape.threads):
            return measure_latency(self.whole, self._cut(), self.inputs, runs=_LAST_ROUNDS)

    def bytes(self) -> int:
        """Return the size of all exported files, with a little room for a longer card."""
        with tempfile.TemporaryDirectory() as scratch, _without_progress():
            folder = Path(scratch) / "model"
            export_model(self.model, folder, check=False, **vars(self.writing), **self.reading)
            return folder_bytes(folder) + _CARD_BYTES

    def loss(self) -> float:
        """Return the fraction of the whole model's metric that is lost; below 0 for a gain."""
        whole = self.whole_metric
        lost = whole - self._metric()
        return (-lost if self.lower_is_better else lost) / abs(whole)


@contextmanager
def _without_progress() -> Iterator[None]:
    """Let Transformers draw no progress bars in the block: a search writes many small files."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
