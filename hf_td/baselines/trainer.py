"""Trainers that train a model by a baseline."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Seq2SeqTrainer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from hf_td.baselines.attaching import (
    AttachedBaseline,
    attach_baseline,
    find_baseline,
    finish_baseline,
)
from hf_td.baselines.base import Baseline, Learning, Penalised
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.learned import save_learned
from hf_td.training import DistillationMixin, ReliableMixin
from hf_td.training.arguments import TargetedDropoutFields
from hf_td.training.callback import add_to_logs
from hf_td.training.losses import share_of_update
from hf_td.training.optimizer import set_learning_rate


class BaselineCallback(TrainerCallback):
    """A callback that advances a baseline at each update, and logs its penalty.

    The progress is `global_step / max_steps`; the callback holds no state.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the baseline; called once for each update, before its first micro-batch."""
        progress = min(1.0, state.global_step / state.max_steps)
        _baseline_of(kwargs["model"]).advance(progress, state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the penalty to the training logs."""
        attached, logs = find_baseline(kwargs["model"]), kwargs.get("logs")
        with torch.no_grad():
            penalty = None if attached is None else attached.penalty()
        if penalty is None or logs is None or "loss" not in logs:
            return
        add_to_logs(state, logs, {"penalty": float(penalty)})


class BaselineMixin(DistillationMixin, ReliableMixin):
    """A mixin for Trainers: attaches a baseline when training starts and finishes it at the end.

    The checkpoints of a run hold the parameters of the method beside the model's, and can be
    resumed. After training `save_model` writes a stock model, with the learned scores beside it.
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
        """Train as the parent does, then restore the stock model with the trained weights."""
        parent: Any = super()
        done = parent.train(*args, **kwargs)
        finish_baseline(self.model)
        self.optimizer = self.lr_scheduler = None  # they reference parameters of the baseline
        return done

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint, and go back to its progress."""
        parent: Any = super()
        parent._load_best_model()
        attached, best = find_baseline(self.model), self.state.best_model_checkpoint
        if attached is not None and best:
            # The best evaluation can be of a later update, which no checkpoint has.
            saved = TrainerState.load_from_json(str(Path(best) / TRAINER_STATE_NAME))
            attached.update = saved.global_step - 1  # the last update before the checkpoint
            attached.progress = min(1.0, attached.update / self.state.max_steps)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        parent: Any = super()
        parent._save(output_dir, state_dict)
        if self.args.should_save and find_baseline(self.model) is None:
            save_learned(self.model, output_dir or self.args.output_dir)

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, and attach the baseline with them.

        `train` calls this for every training, after `model_init`.
        """
        parent: Any = super()
        parent._hp_search_setup(trial)
        if find_baseline(self.model) is None:
            self._attach(self.model)

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
        """Return the loss of the parent, plus the penalty in training."""
        parent: Any = super()
        loss, outputs = parent.compute_loss(model, inputs, True, num_items_in_batch)
        penalty = _baseline_of(self.model).penalty() if model.training else None
        if penalty is not None:
            scaled = penalty * share_of_update(self, num_items_in_batch)
            loss = loss + scaled.to(self.args.device)
        return (loss, outputs) if return_outputs else loss

    @property
    def _adds_to_loss(self) -> str:
        parent: Any = super()
        return "the penalty" if isinstance(self.baseline, Penalised) else parent._adds_to_loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimiser of the parent; the method's parameters get their own learning rate.

        Raises:
            ValueError: the given optimiser lacks the parameters of the method.
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
                "know. Let the Trainer create the optimiser (`optim`), or call attach_baseline "
                "before you create it"
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
        *args: as for `Trainer`. With `TargetedDropoutArguments` their level, include, exclude,
            layers, targeting and seed apply to the baseline.
        baseline: the method with its settings, such as `hf_td.baselines.L0(penalty=0.1)`.
        **kwargs: as for `Trainer`.
    """


class BaselineSeq2SeqTrainer(BaselineMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with a baseline; takes the same arguments."""
