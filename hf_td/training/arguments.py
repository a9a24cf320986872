"""Training arguments with the settings of targeted dropout as flat fields.

Flat fields let `HfArgumentParser` read them from the command line, from JSON and from YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_td.config import Level, TargetedDropoutConfig, check_type
from hf_td.recipes import RECIPES, recipe_choices, recipes_help
from hf_td.schedules import SHAPES, Schedule
from hf_td.training.distillation import DistillationFields
from hf_td.training.pruned_evaluation import AT, name_at, sparsity_in
from hf_td.training.restart import check_has_phase

_RATES = ("targeting", "drop_rate")
# Arguments that are no settings of the configuration, to what they are.
_NUMBERS = {
    "eval_sparsity": "the fraction to remove, in [0, 1]",
    "untargeted_lr_scale": "a positive number",
    "fixed_lr_scale": "a number of at least 0",
    "average": "a decay in [0, 1]",
}


def _setting(help: str, default: Any = None, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class TargetedDropoutFields:
    """The settings of `TargetedDropoutConfig`, one flat field each.

    A schedule becomes several fields: its shape, and the other fields of `hf_td.Schedule`. None
    means the value of the recipe at the level.
    """

    level: Literal["weight", "unit"] = _setting(
        "rank single weights, or whole units (heads and neurons)",
        default="weight",
    )
    attention_level: Literal["weight", "unit", "none"] | None = _setting(
        "level of attention if it differs from `level`; none leaves attention alone"
    )
    feed_forward_level: Literal["weight", "unit", "none"] | None = _setting(
        "level of the feed-forward part if it differs from `level`; none leaves it alone"
    )
    experts_level: Literal["unit", "none"] = _setting(
        "unit ranks whole experts of mixtures; none keeps all of them", default="none"
    )
    layers_level: Literal["unit", "none"] = _setting(
        "unit ranks whole layers of each stack; none keeps all of them", default="none"
    )
    targeting: float | None = _setting(
        "final fraction of weights or units that are candidates, in [0, 1)"
    )
    targeting_schedule: str | None = _setting("how the targeting grows", choices=sorted(SHAPES))
    targeting_initial: float | None = _setting(
        "targeting at the start, as a fraction of the final one, in [0, 1]"
    )
    targeting_begin: float | None = _setting(
        "progress at which the targeting starts to grow, in [0, 1)"
    )
    targeting_end: float | None = _setting("progress at which the targeting is final, in (0, 1]")
    targeting_sampled: float | None = _setting(
        "share of updates that draw a smaller targeting, from [0, its ramp]"
    )
    targeting_off: float | None = _setting("share of dense updates, in [0, 1]")
    drop_rate: float | None = _setting("final probability that a candidate is dropped, in [0, 1]")
    drop_rate_schedule: str | None = _setting("how the drop rate grows", choices=sorted(SHAPES))
    drop_rate_initial: float | None = _setting(
        "drop rate at the start, as a fraction of the final one, in [0, 1]"
    )
    drop_rate_begin: float | None = _setting(
        "progress at which the drop rate starts to grow, in [0, 1)"
    )
    drop_rate_end: float | None = _setting("progress at which the drop rate is final, in (0, 1]")
    drop_rate_sampled: float | None = _setting(
        "share of updates that draw a smaller drop rate, from [0, its ramp]"
    )
    drop_rate_off: float | None = _setting("share of dense updates, in [0, 1]")
    include: list[str] = field(
        default_factory=lambda: ["*"],
        metadata={"help": "patterns on the dotted names of the layers to target"},
    )
    exclude: list[str] = field(
        default_factory=list,
        metadata={"help": "patterns on the dotted names of the layers to leave alone"},
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "indices of the layers to target; all by default"}
    )
    importance: (
        Literal["magnitude", "activation", "random", "taylor", "movement", "learned", "reap"] | None
    ) = _setting(
        "what ranks: magnitude; activation (magnitude times activation); random (a fixed random "
        "set); for pruning alone: taylor (change of the loss to first order), movement (its "
        "growth), learned (the scores of a baseline), reap (whole experts, by what they add)"
    )
    draw: Literal["unit", "element"] = field(
        default="unit",
        metadata={"help": "at the unit level, drop whole units or single weights of them"},
    )
    pattern: str | None = _setting(
        "at the weight level, N:M: the N lowest of each M neighbours are the candidates, as in 2:4"
    )
    rank_over: Literal["row", "matrix", "model"] | None = _setting(
        "single weights that are ranked together"
    )
    matrix_cap: float = field(
        default=0.98,
        metadata={"help": "the most of one matrix that a ranking over the model removes"},
    )
    eval_sparsity: float | None = _setting(
        "evaluate the model pruned to this sparsity too, in [0, 1], where metric_key_prefix begins "
        "with eval; its metrics, such as eval_accuracy_at_0.75, can be the metric_for_best_model"
    )
    recipe: str = field(
        default="fine_tuning", metadata={"help": recipes_help(), "choices": recipe_choices()}
    )
    untargeted_lr_scale: float | None = _setting(
        "learning rate of norms, biases and the head, which are never dropped, as a multiple of "
        "the learning rate of all other parameters"
    )
    fixed_sparsity: float | None = _setting(
        "sparsity that will be shipped, in (0, 1): the run ends with a fixed phase, in which the "
        "model is pruned to it and its zeros stay"
    )
    fixed_from: float = _setting(
        "progress at which the fixed phase begins, in (0, 1)", default=2 / 3
    )
    fixed_lr_scale: float | None = _setting(
        "learning rate at the start of the fixed phase, as a multiple of the first one: the "
        "schedule ends there, and starts again and falls to zero. 0 for one schedule over all"
    )
    average: float | None = _setting(
        "decay of the mean of the weights over the updates of the fixed phase, in (0, 1), which "
        "the model has after training; 1 for the plain mean, 0 for none"
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        self._check_numbers()
        self._decide_direction()
        parent.__post_init__()
        self._measure_what_chooses()
        if self.eval_sparsity is not None and not 0 <= self.eval_sparsity <= 1:
            raise ValueError(
                f"eval_sparsity is the fraction to remove, in [0, 1]; got {self.eval_sparsity}"
            )
        self.take_recipe()
        if self.untargeted_lr_scale is not None and not self.untargeted_lr_scale > 0:
            raise ValueError(f"untargeted_lr_scale is positive, got {self.untargeted_lr_scale}")
        if self.fixed_lr_scale is not None and not self.fixed_lr_scale >= 0:
            raise ValueError(f"fixed_lr_scale is at least 0, got {self.fixed_lr_scale}")
        if self.average is not None and not 0 <= self.average <= 1:
            raise ValueError(f"average is a decay in [0, 1], got {self.average}")
        config = self.targeted_dropout()  # refuses bad settings now, not when training starts
        arguments: Any = self
        if arguments.max_steps > 0:
            check_has_phase(config, arguments.max_steps)
        most = 1.0 if config.neighbours is None else config.neighbours.share
        if self.eval_sparsity is not None and self.eval_sparsity > most:
            raise ValueError(
                f"the pattern {config.pattern} removes {most:g} of the weights at most, but "
                f"eval_sparsity is {self.eval_sparsity}. Use {most:g} or less"
            )
        for name in ("fixed_lr_scale", "average"):
            if getattr(self, name) and config.fixed_sparsity is None:
                raise ValueError(
                    f"{name} is of the fixed phase, and there is none. Set fixed_sparsity to the "
                    f"sparsity that will be shipped, or leave {name} out"
                )

    def _check_numbers(self) -> None:
        """Raise TypeError for numbers of another type; `targeted_dropout` checks the others."""
        for name, kind in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None:
                check_type(name, value, kind, int, float)

    def take_recipe(self) -> None:
        """Set the arguments of the Trainer that were not given to the values of the recipe."""
        values = RECIPES[self.recipe].for_training() if self.recipe in RECIPES else {}
        self._taken = {n: value for n, value in values.items() if getattr(self, n) is None}
        for name, value in self._taken.items():
            setattr(self, name, value)

    def drop_recipe(self) -> None:
        """Set what `take_recipe` set to None again, before another recipe is chosen."""
        for name, value in self._taken.items():
            if getattr(self, name) == value:
                setattr(self, name, None)

    def _decide_direction(self) -> None:
        """Set that a lower loss at a sparsity is better, which the name hides from the parent."""
        arguments: Any = self
        metric, at, _ = (arguments.metric_for_best_model or "").partition(AT)
        if at and arguments.greater_is_better is None:
            arguments.greater_is_better = not metric.endswith("loss")

    def _measure_what_chooses(self) -> None:
        """Set the sparsity of the metric that chooses a checkpoint, if there is none."""
        arguments: Any = self
        chosen = sparsity_in(arguments.metric_for_best_model or "")
        if chosen is not None and self.eval_sparsity is None:
            self.eval_sparsity = chosen
        if chosen is None or self.eval_sparsity is None:
            return
        metric = arguments.metric_for_best_model.rpartition(AT)[0]
        if name_at(metric, chosen) != name_at(metric, self.eval_sparsity):
            raise ValueError(
                f"metric_for_best_model={arguments.metric_for_best_model!r} is measured at another "
                f"sparsity than eval_sparsity={self.eval_sparsity:g}. Give both the same"
            )
        arguments.metric_for_best_model = name_at(metric, chosen)  # as an evaluation names it

    def targeted_dropout(self) -> TargetedDropoutConfig:
        """Return the settings as a configuration; its seed is the run's."""
        if self.recipe not in RECIPES or self.level not in get_args(Level):
            return TargetedDropoutConfig(level=self.level, recipe=self.recipe)  # refuses it
        schedules: dict[str, Any] = {f"{rate}_schedule": self._schedule(rate) for rate in _RATES}
        names = {f.name for f in fields(TargetedDropoutConfig)} - set(schedules)
        return TargetedDropoutConfig(**{n: getattr(self, n) for n in names}, **schedules)

    def _schedule(self, rate: str) -> Schedule:
        """Return the schedule of the recipe, with the given fields replaced."""
        recipe = RECIPES[self.recipe].at(self.level)[f"{rate}_schedule"]
        flat = {f.name: f"{rate}_{f.name}" for f in fields(Schedule)}
        flat["shape"] = f"{rate}_schedule"
        given = {name: getattr(self, field) for name, field in flat.items()}
        return replace(recipe, **{n: value for n, value in given.items() if value is not None})


@dataclass
class TargetedDropoutArguments(TargetedDropoutFields, DistillationFields, TrainingArguments):
    """`TrainingArguments` with the settings of targeted dropout and of distillation."""


@dataclass
class TargetedDropoutSeq2SeqArguments(
    TargetedDropoutFields, DistillationFields, Seq2SeqTrainingArguments
):
    """`Seq2SeqTrainingArguments` with the settings of targeted dropout and of distillation."""
