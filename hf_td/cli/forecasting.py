"""Forecasts how long a pruning takes that runs on texts, in one line on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from torch import nn

from hf_td.anatomy import Anatomy
from hf_td.tasks.progress import EXPORT_SECONDS, Job, Part

_TEXTS, _EXPORTING = "running the texts", "exporting"


@contextmanager
def forecast(model: nn.Module, anatomy: Anatomy, given: Mapping[str, Any]) -> Iterator[Job]:
    """Yield the job of a pruning and its export.

    Nothing is drawn without a calibration: the rest is one step, of which nothing is measured. A
    search for a wish has as many forwards as it takes, so nothing is drawn for it either.

    Args:
        model: the model that is pruned.
        anatomy: what `read_anatomy(model)` returned.
        given: arguments of `prune_model`; empty for a search.
    """
    batches, blocks = len(given.get("calibration", ())), len(_consumers(model, anatomy))
    texts = _runs(batches, blocks, given.get("compensate"))
    parts = {_TEXTS: Part(units=texts), _EXPORTING: Part(units=1, guess=EXPORT_SECONDS)}
    with closing(Job(parts, shown=texts > 0)) as job:
        yield job


@contextmanager
def reporting_texts(job: Job, model: nn.Module, anatomy: Anatomy) -> Iterator[None]:
    """Report to a job each block that runs on texts; afterwards the export begins."""
    if not job.parts[_TEXTS].units:
        yield
        return
    job.begin(_TEXTS, "")
    handles = [
        consumer.register_forward_pre_hook(lambda *_: job.advance(_TEXTS, 1))
        for consumer in _consumers(model, anatomy)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    job.skip(_TEXTS, float("inf"))
    job.begin(_EXPORTING, "")


def _runs(batches: int, blocks: int, compensate: Any) -> int:
    """Return how often a block runs on a batch: to rank all blocks, and to compensate for each.

    Least squares runs the first batch through all blocks, and the rest up to the block in turn.
    """
    ranking = batches * blocks
    if compensate == "least_squares" and batches:
        return ranking + blocks * blocks + (batches - 1) * blocks * (blocks + 1) // 2
    return 2 * ranking if compensate == "mean" else ranking


def _consumers(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """Return the consumers of all blocks but those that are parameters of a stack of experts."""
    modules = dict(model.named_modules())
    names = dict.fromkeys(block.consumer.module for block in anatomy.blocks)
    return [modules[name] for name in names if name in modules]
