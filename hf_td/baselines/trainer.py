"""Trainers that train a model by a baseline."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Seq2SeqTrainer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_td.baselines.attaching import (
    AttachedBaseline,
    attach_baseline,
    find_baseline,
    finish_baseline,
)
from hf_td.baselines.base import Baseline, Learning
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.learned import save_learned
from hf_td.training import DistillationMixin, ReliableMixin
from hf_td.training.arguments import TargetedDropoutFields
from hf_td.training.losses import share_of_update
from hf_td.training.optimizer import set_learning_rate


class BaselineCallback(TrainerCallback):
    """Leads a baseline from update to update, and adds its penalty to the log.

    The progress is `global_step / max_steps`; the callback holds no state.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called once for each update, before its first micro-batch."""
        progress = min(1.0, state.global_step / state.max_steps)
        _baseline_of(kwargs["model"]).advance(progress, state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the penalty to what is logged while training."""
        attached, logs = find_baseline(kwargs["model"]), kwargs.get("logs")
        with torch.no_grad():
            penalty = None if attached is None else attached.penalty()
        if penalty is None or logs is None or "loss" not in logs:
            return
        logs["penalty"] = float(penalty)
        # The history holds a copy of the logs, made before the callbacks are asked.
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1]["penalty"] = logs["penalty"]


class BaselineMixin(DistillationMixin, ReliableMixin):
    """Makes a Trainer train by a baseline: attached when training starts, gone when it ends.

    The checkpoints of a run hold the parameters of the method beside the model's, so that it can
    be resumed; what `save_model` writes after the training is stock, with the scores that the
    method has learned beside it.
    """

    model: Any
    optimizer: Any
    callback_handler: Any
    compute_loss_func: Any
    model_init: Any
    train_dataset: Any

    def __init__(self, *args: Any, baseline: Baseline, **kwargs: Any) -> None:
        self.baseline = baseline
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks.insert(0, BaselineCallback())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent; ends with the stock model, in which the baseline has left its traces."""
        parent: Any = super()
        if self.model_init is None and find_baseline(self.model) is None:
            self._attach(self.model)
        done = parent.train(*args, **kwargs)
        finish_baseline(self.model)
        self.optimizer = self.lr_scheduler = None  # they have parameters that are gone
        return done

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        parent: Any = super()
        parent._save(output_dir, state_dict)
        if self.args.should_save and find_baseline(self.model) is None:
            save_learned(self.model, output_dir or self.args.output_dir)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The fresh model of `model_init`, with the baseline."""
        parent: Any = super()
        return self._attach(parent.call_model_init(trial))

    def _attach(self, model: nn.Module) -> nn.Module:
        known = isinstance(self.args, TargetedDropoutFields)
        config = self.args.targeted_dropout() if known else TargetedDropoutConfig()
        data: Any = getattr(self, "train_dataset", None)
        examples = len(data) if isinstance(data, Sized) else None
        return attach_baseline(model, self.baseline, config, examples=examples)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the parent, in training with the penalty."""
        parent: Any = super()
        loss, outputs = parent.compute_loss(model, inputs, True, num_items_in_batch)
        penalty = _baseline_of(self.model).penalty() if model.training else None
        if penalty is not None:
            loss = loss + self._scaled(penalty, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _scaled(self, penalty: Tensor, num_items_in_batch: Any) -> Tensor:
        return (penalty * share_of_update(self, num_items_in_batch)).to(self.args.device)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimiser of the parent; the parameters of the method get their own learning rate.

        Raises:
            ValueError: the optimiser was made before the method had parameters.
        """
        parent: Any = super()
        fresh = self.optimizer is None
        optimizer = parent.create_optimizer(*args, **kwargs)
        attached = find_baseline(self.model)
        own = [] if attached is None else list(attached.parameters())
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(parameter) not in known for parameter in own):
            raise ValueError(
                f"{type(self.baseline).__name__} has parameters that the given optimiser does not "
                "know; let the Trainer make it (`optim`), or attach the baseline yourself before"
            )
        if own and fresh and isinstance(self.baseline, Learning):
            set_learning_rate(optimizer, own, self.baseline.learning_rate)
        return optimizer


def _baseline_of(model: nn.Module) -> AttachedBaseline:
    attached = find_baseline(model)
    assert attached is not None
    return attached


class BaselineTrainer(BaselineMixin, Trainer):
    """`transformers.Trainer` with a baseline.

    Args:
        *args: as for `Trainer`; with `TargetedDropoutArguments`, their level, include, exclude,
            layers, targeting and seed hold for the baseline.
        baseline: the method with its settings, such as `hf_td.baselines.L0(penalty=0.1)`.
        **kwargs: as for `Trainer`.
    """


class BaselineSeq2SeqTrainer(BaselineMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with a baseline; takes the same arguments."""
