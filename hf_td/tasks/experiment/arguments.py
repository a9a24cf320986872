"""The arguments that the scripts share, and the recipe that is their default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate.state import AcceleratorState, PartialState

from hf_td.hub.forms import AUTO, form_choices, forms_help
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.pairs import parse_pairs
from hf_td.tasks.glue import GLUE_DATASET
from hf_td.training import TargetedDropoutArguments

_STATES: tuple[Any, ...] = (PartialState, AcceleratorState)

# Defaults of the training arguments, where they differ from those of Transformers.
RECIPE: dict[str, Any] = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
}

# Gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878): the mask of the lowest magnitudes,
# redone at every update, grows by a cubic schedule.
_GRADUAL: dict[str, Any] = {
    "importance": "magnitude",
    "drop_rate": 1.0,
    "drop_rate_schedule": "constant",
    "drop_rate_sampled": 0.0,
    "drop_rate_off": 0.0,
    "targeting_schedule": "cubic",
    "targeting_initial": 0.0,
    "targeting_begin": 0.1,
    "targeting_end": 0.7,
    "targeting_sampled": 0.0,
    "targeting_off": 0.0,
    "untargeted_lr_scale": 1.0,
}

# What a method at a level needs besides: a sparse network learns from larger updates, one of single
# weights from more of them, and what it is to keep has to be learned before (None is "where the
# head is new").
_UNIT: dict[str, Any] = {"learning_rate": 2e-4, "dense_epochs": None}
_WEIGHT: dict[str, Any] = {**_UNIT, "per_device_train_batch_size": 16}
_LEVEL_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("targeted_dropout", "weight"): _WEIGHT,
    ("targeted_dropout", "unit"): _UNIT,
    ("gradual_magnitude", "weight"): {**_WEIGHT, **_GRADUAL},
    ("gradual_magnitude", "unit"): {**_UNIT, **_GRADUAL},
}


# What other tasks than text classification need besides: their inputs are all of one size.
OF_ONE_SIZE: dict[str, Any] = {"train_sampling_strategy": "random"}


def recipe(
    method: str = "targeted_dropout",
    level: str = "weight",
    *,
    task: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The defaults of the arguments for a method at a level.

    Args:
        method: key of `METHODS`.
        level: `weight` or `unit`.
        task: what the task needs besides.
    """
    return {**RECIPE, **_LEVEL_RECIPES.get((method, level), {}), **task}


# As --teacher, the model that the method starts from.
START = "start"

# What may change between two calls of the same experiment, and what is not for the record.
_NOT_OF_THE_EXPERIMENT = {
    "disable_tqdm",
    "export_form",
    "export_sparsity",
    "do_eval",
    "do_predict",
    "do_train",
    "hub_model_id",
    "hub_private_repo",
    "hub_token",
    "local_rank",
    "output_dir",
    "overwrite_output",
    "push_to_hub",
    "resume_from_checkpoint",
    "seed",
    "seeds",
    "token",
}


def argument(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a dataclass of arguments."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    """Which model to fine-tune."""

    model_name_or_path: str = field(
        metadata={
            "help": "local folder, id on the Hugging Face Hub, builtin-minilm, which the extra "
            "`demo` installs, or new:TYPE, an untrained model of a type such as new:vit"
        }
    )
    config_name: str | None = argument(None, "configuration, where it is not the model's")
    config_overrides: str | None = argument(
        None, "changes to the configuration, such as hidden_size=32,num_hidden_layers=2"
    )
    tokenizer_name: str | None = argument(
        None, "tokenizer or image processor, where it is not the model's"
    )
    cache_dir: str | None = argument(None, "where to keep what is downloaded")
    model_revision: str = argument("main", "branch, tag or commit on the Hub")
    token: str | None = argument(None, "token for the Hub; by default the one of `hf auth login`")
    trust_remote_code: bool = argument(False, "run the code that the model's repository holds")
    ignore_mismatched_sizes: bool = argument(
        False, "make a new head where the model's has another number of labels"
    )


@dataclass
class DataArguments:
    """Which text classification task to fine-tune on."""

    task_name: str = field(metadata={"help": "a GLUE task, or acceptability, which is built in"})
    dataset_name: str = argument(
        GLUE_DATASET, "local folder, or id on the Hub, that has the GLUE tasks"
    )
    max_seq_length: int = argument(128, "longer inputs are cut to this number of tokens")
    max_train_samples: int | None = argument(None, "train on a fixed random subset of this size")
    drop_fragments: bool = argument(
        False,
        "leave out training rows whose text is part of another row's, as the phrases in SST-2 are",
    )
    max_eval_samples: int | None = argument(None, "evaluate on this number of rows, the first")
    held_out: int | None = argument(
        None,
        "evaluate on this number of rows held out of the training set instead of the validation "
        "set: to choose settings by",
    )


@dataclass
class CurveArguments:
    """What to measure, how often, and where it goes."""

    method: str = argument(
        "targeted_dropout",
        "how to fine-tune; none is plain fine-tuning, pruned in the same way",
        choices=sorted(METHODS),
    )
    method_settings: str | None = argument(
        None, "settings of the method, such as penalty=0.1,learning_rate=0.01"
    )
    dense_epochs: float | None = argument(
        0.0,
        "epochs of plain fine-tuning before the method begins; the recipe of targeted dropout has "
        "none (write null in a file) for as many as the method has where the head is new, else 0. "
        "The model lies in seed-N/dense; --teacher start makes it the teacher",
    )
    dense_learning_rate: float = argument(
        RECIPE["learning_rate"], "learning rate of this dense stage"
    )
    sparsities: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 0.75, 0.9],
        metadata={"help": "shares of the prunable weights to remove, in [0, 1]"},
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "a run for each of these seeds; by default for --seed"}
    )
    export_sparsity: float | None = argument(
        None,
        "prune to this one of the sparsities and export, to seed-N/export; with --push_to_hub "
        "by default the largest that the targeting covers",
    )
    export_form: str = argument(AUTO, forms_help(), choices=form_choices())
    overwrite_output: bool = argument(
        False,
        "replace the results that are in output_dir",
        aliases=["--overwrite_output_dir"],
    )


@dataclass(frozen=True)
class Arguments:
    """All arguments of one experiment.

    Attributes:
        model: which model.
        data: which data; its kind depends on the script.
        curve: what to measure.
        training: everything that a Trainer takes, and the settings of targeted dropout.
    """

    model: ModelArguments
    data: Any
    curve: CurveArguments
    training: TargetedDropoutArguments

    @property
    def method_settings(self) -> dict[str, Any]:
        """The settings that were given to the method."""
        return parse_pairs(self.curve.method_settings, "--method_settings")

    @property
    def seeds(self) -> list[int]:
        """The seeds to run."""
        return [self.training.seed] if self.curve.seeds is None else self.curve.seeds

    @property
    def trains(self) -> bool:
        """Whether to train: unless only `--do_eval` was asked for."""
        # Transformers sets do_eval itself where there is an eval_strategy.
        only_eval = self.training.do_eval and self.training.eval_strategy == "no"
        return self.training.do_train or not only_eval

    @property
    def measures(self) -> bool:
        """Whether to measure the curve: unless only `--do_train` was asked for."""
        return self.training.do_eval or not self.training.do_train

    @property
    def exports(self) -> bool:
        """Whether the fine-tuned models are to be exported."""
        return self.curve.export_sparsity is not None or self.training.push_to_hub

    @property
    def sparsity_to_export(self) -> float:
        """The sparsity of the exports: by default the largest that the targeting covers."""
        if self.curve.export_sparsity is not None:
            return self.curve.export_sparsity
        targeting = self.training.targeted_dropout().targeting
        return max((s for s in self.curve.sparsities if s <= targeting), default=0.0)

    def repo_id(self, seed: int) -> str:
        """Where on the Hub the export of a seed goes; by default it is called as output_dir is."""
        name = self.training.hub_model_id or Path(str(self.training.output_dir)).resolve().name
        return f"{name}-seed-{seed}" if len(self.seeds) > 1 else name

    def configuration(self) -> dict[str, Any]:
        """What makes the experiment what it is, as JSON values; equal for equal experiments.

        `arguments` are those that differ from the defaults of their class (the recipe therefore
        counts); `targeted_dropout` are the full settings, without the seed; `method_settings`
        those of a baseline.
        """
        chosen: dict[str, Any] = {"train": self.trains, "measure": self.measures}
        for group in (self.model, self.data, self.curve):
            chosen |= _differing(asdict(group), _defaults(type(group)))
        with _state_of_processes():
            plain = type(self.training)(output_dir=self.training.output_dir)
        chosen |= _differing(self.training.to_dict(), plain.to_dict())
        settings = self.training.targeted_dropout().to_dict()
        settings.pop("seed")
        own = METHODS[self.curve.method].settings(self.training.level, self.method_settings)
        method = {} if own is None else {"method_settings": own}
        return {"arguments": chosen, "targeted_dropout": settings, **method}


@contextmanager
def _state_of_processes() -> Iterator[None]:
    """Keep what accelerate knows of processes and devices, which new training arguments reset."""
    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in _STATES]
    try:
        yield
    finally:
        for state, before in kept:
            state.clear()
            state.update(before)


def _defaults(kind: Any) -> dict[str, Any]:
    made = {f.name: f.default_factory() for f in fields(kind) if callable(f.default_factory)}
    return {f.name: f.default for f in fields(kind)} | made


def _differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if name not in _NOT_OF_THE_EXPERIMENT and value != defaults[name]
    }
