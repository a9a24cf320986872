"""Measures the pruned model in the evaluations of a training, so that its metric can choose."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import default_compute_objective

from hf_td.config import TargetedDropoutConfig
from hf_td.patching.patch import find_patch
from hf_td.pruning import pruned

logger = logging.getLogger(__name__)

# Stands between the name of a metric and the sparsity at which it was measured.
AT = "_at_"
# Endings of entries of an evaluation that are no metrics.
_TIMES = ("_model_preparation_time", "_jit_compilation_time")


def name_at(metric: str, sparsity: float) -> str:
    """Return the name of a metric at a sparsity, such as `eval_accuracy_at_0.75`."""
    return f"{metric}{AT}{sparsity:g}"


class PrunedEvaluationMixin:
    """A mixin for Trainers that evaluates the model pruned to `args.eval_sparsity` too.

    Its metrics are those of the full weights under the names of `name_at`. The weights are restored
    bit for bit. `predict` runs the same loop, has one output, and is told by its prefix: only one
    that begins with `eval` is of an evaluation.
    """

    args: Any
    model: Any

    _prunes = True

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Return the output of the parent for the full weights, with the metrics of the pruned."""
        parent: Any = super()
        given = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output = parent.evaluation_loop(*given)
        sparsity = getattr(self.args, "eval_sparsity", None)
        patch = find_patch(self.model)
        if sparsity is None or patch is None or not metric_key_prefix.startswith("eval"):
            return output
        # A data loader draws a seed: without the fork, training would depend on this evaluation.
        anatomy = patch.anatomy_for(self.model)
        with pruned(self.model, sparsity, anatomy=anatomy), torch.random.fork_rng([]):
            metrics = parent.evaluation_loop(*given).metrics
        output.metrics.update(
            {name_at(k, sparsity): v for k, v in metrics.items() if not k.endswith(_TIMES)}
        )
        return output

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Search as the parent does, by default for the sum of all metrics, or the pruned loss.

        Warn if no metric of the pruned model can be the objective.
        """
        if getattr(self.args, "eval_sparsity", None) is None:
            logger.warning(
                "The search will choose by the metrics of the full weights. They say little about "
                "the pruned model. Set eval_sparsity to the sparsity that you want: its metrics "
                "are then part of the objective, and compute_objective can name one"
            )
        parent: Any = super()
        objective = compute_objective or _objective
        return parent.hyperparameter_search(hp_space, objective, *args, **kwargs)


def _objective(metrics: dict[str, float]) -> float:
    """Return the default objective of transformers, to which losses at a sparsity are no metrics.

    Where there is no metric, it is the loss at the sparsity, if that was measured.
    """
    losses = [value for name, value in metrics.items() if name.startswith(f"eval_loss{AT}")]
    rest = {k: v for k, v in metrics.items() if not k.startswith("eval_loss")}
    total: float | None = default_compute_objective(rest)  # None where there is no metric
    if total is not None:
        return total
    return losses[0] if losses else metrics["eval_loss"]


def warn_if_chosen_unpruned(args: TrainingArguments, config: TargetedDropoutConfig) -> None:
    """Warn if the metric of the full weights chooses a checkpoint while the rates still rise."""
    metric = args.metric_for_best_model
    if metric is None or sparsity_in(metric) is not None or not _rise(config):
        return
    sparsity = config.fixed_sparsity or config.targeting
    wanted = name_at("loss" if "loss" in metric else metric, sparsity)
    logger.warning(
        "metric_for_best_model=%r is measured with the full weights. They are at their best before "
        "the rates rise, so the best checkpoint, or the one where early stopping ends, may never "
        "have met the targeting. With TargetedDropoutTrainer set eval_sparsity=%g and "
        "metric_for_best_model=%r, or train to the end",
        metric,
        sparsity,
        wanted,
    )


def warn_if_above_targeting(args: TrainingArguments, config: TargetedDropoutConfig) -> None:
    """Warn of a sparsity that is pruned to or measured, and that no update trains for."""
    fixed, measured = config.fixed_sparsity, getattr(args, "eval_sparsity", None)
    if fixed is not None and fixed > config.targeting:
        logger.warning(
            "fixed_sparsity=%g is above the targeting %g, so the fixed phase begins with weights "
            "removed that were never dropped. Raise targeting to %g",
            fixed,
            config.targeting,
            fixed,
        )
    trained = max(config.targeting, fixed or 0.0)
    if measured is not None and measured > trained:
        logger.warning(
            "eval_sparsity=%g is above %g, so the model is not trained for what is measured. Raise "
            "targeting",
            measured,
            trained,
        )


def sparsity_in(metric: str) -> float | None:
    """Return the sparsity in a name of `name_at`; None for one such as precision_at_1."""
    _, at, end = metric.rpartition(AT)
    try:
        return float(end) if at and float(end) < 1 else None
    except ValueError:
        return None


def _rise(config: TargetedDropoutConfig) -> bool:
    ramps = (
        replace(schedule, sampled=0.0, off=0.0)
        for schedule in (config.targeting_schedule, config.drop_rate_schedule)
    )
    return any(ramp(0.0) < ramp(1.0) for ramp in ramps)
