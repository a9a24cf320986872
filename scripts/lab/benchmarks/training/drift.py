"""How fast candidates change in training, and so what ranking less often would cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from hf_td import functional
from hf_td.patching.patch import find_patch
from hf_td.ranking.sites import WeightSite
from hf_td.tasks.experiment.arguments import Arguments, CurveArguments, ModelArguments, recipe
from hf_td.tasks.models import BUILTIN_MODEL
from hf_td.tasks.text_classification.task import (
    TextClassificationArguments,
    text_classification_task,
)
from hf_td.training import TargetedDropoutArguments, TargetedDropoutTrainer

INTERVALS = (2, 4, 8, 16, 32)


class DriftMeter(TrainerCallback):
    """Compares candidates under kept cut-offs with the exact ones, while a model is trained.

    Add it to a `TargetedDropoutTrainer`, whose masks it leaves alone. For each interval the
    cut-off of every output unit is kept for so many updates (or until the number of candidates
    changes), and the candidates are those of the current scores that are below it.

    Attributes:
        intervals: updates from one ranking to the next.
        shares: by interval, the share of the targeted weights that differ, for each update that
            did not rank anew while the number of candidates was final.
    """

    def __init__(self, intervals: Sequence[int] = INTERVALS) -> None:
        self.intervals = tuple(intervals)
        self.shares: dict[int, list[float]] = defaultdict(list)
        self._kept: dict[tuple[int, str], tuple[int, Tensor]] = {}

    @torch.no_grad()
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rank as the update does, and compare."""
        patch = find_patch(kwargs["model"])
        assert patch is not None
        targeting = patch.rates.targeting
        sites = [site for site in patch.sites if isinstance(site, WeightSite)]
        found = [self._compare(site, targeting, state.global_step) for site in sites]
        if targeting != patch.config.targeting:
            return
        total = sum(site.layer.weight.numel() for site in sites)
        for place, interval in enumerate(self.intervals):
            differing = [counts[place] for counts in found]
            if None not in differing:
                self.shares[interval].append(sum(differing) / total)

    def _compare(self, site: WeightSite, targeting: float, update: int) -> list[Any]:
        """For each interval how many candidates differ, or None where this update ranks."""
        scores = site.scores()
        count = functional.candidate_count(scores.shape[site.dim], targeting)
        if not count:
            return [None] * len(self.intervals)
        exact = functional.cutoff(scores, count, site.dim)
        return [self._differing(site, scores, count, exact, i, update) for i in self.intervals]

    def _differing(
        self,
        site: WeightSite,
        scores: Tensor,
        count: int,
        exact: Tensor,
        interval: int,
        update: int,
    ) -> int | None:
        kept = self._kept.get((interval, site.name))
        if kept is None or kept[0] != count or update % interval == 0:
            self._kept[interval, site.name] = count, exact
            return None
        return int(((scores < kept[1]) != (scores < exact)).sum())

    def records(self) -> list[dict[str, Any]]:
        """A JSON object for each interval; shares are means over all updates, ranking ones too."""
        return [
            {
                "case": "drift",
                "interval": interval,
                "mean_share": fmean(shares) * (interval - 1) / interval,
                "largest_share": max(shares),
                "updates": len(shares),
            }
            for interval, shares in self.shares.items()
        ]


def measure_drift(folder: str) -> list[dict[str, Any]]:
    """Fine-tune the built-in model on the built-in task, and see how fast candidates change.

    Args:
        folder: for what the Trainer writes.
    """
    training = TargetedDropoutArguments(
        **{**recipe("targeted_dropout"), "level": "weight", "save_strategy": "no"},
        output_dir=folder,
    )
    arguments = Arguments(
        ModelArguments(model_name_or_path=BUILTIN_MODEL),
        TextClassificationArguments(task_name="acceptability"),
        CurveArguments(),
        training,
    )
    task = text_classification_task(arguments)
    set_seed(training.seed)
    meter = DriftMeter()
    TargetedDropoutTrainer(
        task.make_model(),
        training,
        train_dataset=task.train_data,
        data_collator=task.collator,
        processing_class=task.processor,
        callbacks=[meter],
    ).train()
    return meter.records()
