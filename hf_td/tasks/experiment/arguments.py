"""The arguments that all tasks share, and the recipe: their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from accelerate.state import AcceleratorState, PartialState

from hf_td.hub.forms import AUTO, form_choices, forms_help
from hf_td.pruning.compensation import Compensation
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.pairs import parse_pairs
from hf_td.tasks.sizes import parse_bytes
from hf_td.training import TargetedDropoutArguments

_STATES: tuple[Any, ...] = (PartialState, AcceleratorState)

# Defaults of training arguments that differ from Transformers' defaults.
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

# Gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878): the mask of the lowest magnitudes is
# computed in every update, and its size grows by a cubic schedule.
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

# Changes to the recipe for a method at a level. A sparse network needs larger updates, and at the
# weight level more of them. The task must be learnt before pruning: None adds a dense stage if the
# head is new.
_UNIT: dict[str, Any] = {"learning_rate": 2e-4, "dense_epochs": None}
_WEIGHT: dict[str, Any] = {**_UNIT, "per_device_train_batch_size": 16}
_LEVEL_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("targeted_dropout", "weight"): _WEIGHT,
    ("targeted_dropout", "unit"): _UNIT,
    ("gradual_magnitude", "weight"): {**_WEIGHT, **_GRADUAL},
    ("gradual_magnitude", "unit"): {**_UNIT, **_GRADUAL},
}

# Changes to the recipe for a pretrained language model: it has learnt its task, and few updates
# adapt it to pruning. The learning rate was chosen on the validation split of WikiText-2, see
# scripts/sweeps/llm-heldout.yaml.
_LANGUAGE_MODEL: dict[str, Any] = {
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 3e-4,
    "dense_epochs": 0.0,
    "logging_steps": 10,
}

# Changes to the recipe for tasks whose inputs all have one size.
OF_ONE_SIZE: dict[str, Any] = {"train_sampling_strategy": "random"}


def recipe(
    method: str = "targeted_dropout",
    level: str = "weight",
    recipe: str = "fine_tuning",
    *,
    task: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the default arguments for a method at a level.

    Args:
        method: key of `METHODS`.
        level: `weight` or `unit`.
        recipe: key of `hf_td.recipes.RECIPES`.
        task: changes for a kind of task.
    """
    own = _LANGUAGE_MODEL if recipe == "language_model" else {}
    return {**RECIPE, **_LEVEL_RECIPES.get((method, level), {}), **own, **task}


# Sparsities that are measured by default, where they are not above the targeting.
SPARSITIES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)

# Value of --teacher for the model that the method starts from.
START = "start"

# Arguments that may change between two calls of one experiment, or must not be recorded.
_NOT_OF_THE_EXPERIMENT = {
    "checkpoint_minutes",
    "disable_tqdm",
    "export_form",
    "export_max_bytes",
    "export_max_loss",
    "export_report",
    "export_speedup",
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
    "save_total_limit",
    "seed",
    "seeds",
    "token",
}


def argument(default: Any, help: str, **metadata: Any) -> Any:
    """Return a dataclass field with a default and a help text."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    """The model to fine-tune."""

    model_name_or_path: str = field(
        metadata={
            "help": "local folder, id on the Hugging Face Hub, builtin-minilm (installed by the "
            "extra `demo`), or new:TYPE for an untrained model, such as new:vit"
        }
    )
    config_name: str | None = argument(None, "configuration to use in place of the model's")
    config_overrides: str | None = argument(
        None, "changes to the configuration, such as hidden_size=32,num_hidden_layers=2"
    )
    tokenizer_name: str | None = argument(
        None, "tokenizer or image processor to use in place of the model's"
    )
    cache_dir: str | None = argument(None, "folder for downloads")
    model_revision: str = argument("main", "branch, tag or commit on the Hub")
    token: str | None = argument(None, "token for the Hub; by default that of `hf auth login`")
    trust_remote_code: bool = argument(False, "run code from the model's repository")
    example_inputs: str | None = argument(
        None,
        "inputs of one forward, for a model that runs on none that hf_td can make: a .json file, "
        'such as {"input_ids": [[101, 2054, 102]]}, or a .safetensors file',
    )
    trim_vocabulary: bool = argument(
        False, "take the tokens that the training text does not use out of the model, at first"
    )
    ignore_mismatched_sizes: bool = argument(
        False, "initialise a new head if the model's has another number of labels"
    )


@dataclass
class CurveArguments:
    """The method, the sparsities and seeds to measure, and the export."""

    method: str = argument(
        "targeted_dropout",
        "method to fine-tune with; none is plain fine-tuning",
        choices=sorted(METHODS),
    )
    method_settings: str | None = argument(
        None, "settings of the method, such as penalty=0.1,learning_rate=0.01"
    )
    dense_epochs: float | None = argument(
        0.0,
        "epochs of plain fine-tuning before the method. `none` (null in a file), the recipe of "
        "targeted dropout, is as many as the method has if the head is new, else 0. The model is "
        "saved in seed-N/dense; --teacher start makes it the teacher",
    )
    dense_learning_rate: float = argument(
        RECIPE["learning_rate"], "learning rate of the dense stage"
    )
    sparsities: list[float] | None = field(
        default=None,
        metadata={
            "help": "shares of the prunable weights to remove, in [0, 1]; by default those of "
            f"{', '.join(map(str, SPARSITIES))} that are not above the targeting, or the "
            "--fixed_sparsity alone"
        },
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "seeds, one run each; by default --seed"}
    )
    calibration_samples: int = argument(
        256, "training rows that importance by activation or by gradients is measured on"
    )
    measure_costs: bool = argument(
        False,
        "at each sparsity also count the parameters and the bytes of what would be exported, and "
        "time a forward of it on the first 8 rows that are measured on",
    )
    compensate: str | None = argument(
        None,
        "at the unit level, make up for what is pruned, measured on --calibration_samples rows: "
        "least_squares in the weights that read the rest, mean in their bias",
        choices=list(get_args(Compensation)),
    )
    export_sparsity: float | None = argument(
        None,
        "export the model pruned to this sparsity, to seed-N/export; with --push_to_hub by default "
        "the largest sparsity that is not above the targeting",
    )
    export_speedup: float | None = argument(
        None,
        "in place of --export_sparsity, export the model pruned until a forward is so many times "
        "as fast on this machine, on the first 8 rows that are measured on",
    )
    export_max_bytes: str | None = argument(
        None, "in place of --export_sparsity, what all exported files may take, such as 25MB"
    )
    export_max_loss: float | None = argument(
        None,
        "in place of --export_sparsity, the fraction of the dense model's metric that the export "
        "may lose, such as 0.01; beside the other wishes, what these may cost",
    )
    export_report: bool = argument(
        False, "also write the report page of the run, report.html, into each export"
    )
    export_form: str = argument(AUTO, forms_help(), choices=form_choices())
    checkpoint_minutes: float = argument(
        2.0,
        "write a checkpoint every so many minutes, from which the same command goes on after it "
        "was killed; removed when the seed is finished. 0 for none. --save_strategy steps or epoch "
        "takes its place",
    )
    overwrite_output: bool = argument(
        False,
        "replace earlier results in output_dir",
        aliases=["--overwrite_output_dir"],
    )


@dataclass(frozen=True)
class Arguments:
    """All arguments of one experiment.

    Attributes:
        model: the model to fine-tune.
        data: the data; the class depends on the kind of task.
        curve: the method, the sparsities and seeds to measure, and the export.
        training: training arguments, with the settings of targeted dropout.
    """

    model: ModelArguments
    data: Any
    curve: CurveArguments
    training: TargetedDropoutArguments

    @property
    def method_settings(self) -> dict[str, Any]:
        """Settings of the method, parsed."""
        return parse_pairs(self.curve.method_settings, "--method_settings")

    @property
    def seeds(self) -> list[int]:
        """Seeds to run."""
        return [self.training.seed] if self.curve.seeds is None else self.curve.seeds

    @property
    def sparsities(self) -> list[float]:
        """Sparsities to measure: by default those that the model is trained for.

        After a fixed phase it is the fixed sparsity alone: the model has it, and no lower one.
        """
        if self.curve.sparsities is not None:
            return self.curve.sparsities
        if self.fixed_sparsity is not None:
            return [self.fixed_sparsity]
        targeting = self.training.targeted_dropout().targeting
        return [sparsity for sparsity in SPARSITIES if sparsity <= targeting]

    @property
    def fixed_sparsity(self) -> float | None:
        """The sparsity that the model has after training; None without a fixed phase."""
        if not (self.trains and METHODS[self.curve.method].targets):
            return None
        return self.training.targeted_dropout().fixed_sparsity

    @property
    def trains(self) -> bool:
        """True unless only `--do_eval` is given."""
        # Transformers sets do_eval itself if there is an eval_strategy.
        only_eval = self.training.do_eval and self.training.eval_strategy == "no"
        return self.training.do_train or not only_eval

    @property
    def measures(self) -> bool:
        """True unless only `--do_train` is given: measure the curve."""
        return self.training.do_eval or not self.training.do_train

    @property
    def minutes_between_checkpoints(self) -> float:
        """Minutes between two checkpoints; 0 if `--save_strategy` says when to save."""
        return self.curve.checkpoint_minutes if self.training.save_strategy == "no" else 0.0

    @property
    def exports(self) -> bool:
        """True if the fine-tuned models are exported."""
        asked = self.curve.export_sparsity is not None or bool(self.wishes)
        return asked or self.training.push_to_hub

    @property
    def wishes(self) -> dict[str, Any]:
        """Wishes for the exports, by the names that `prune_to` has for them."""
        curve = self.curve
        size = curve.export_max_bytes
        given = {
            "speedup": curve.export_speedup,
            "max_bytes": None if size is None else parse_bytes(size),
            "max_loss": curve.export_max_loss,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def sparsity_to_export(self) -> float:
        """Sparsity of the exports: by default the largest that is not above the targeting."""
        if self.curve.export_sparsity is not None:
            return self.curve.export_sparsity
        return self.largest_trained_sparsity

    @property
    def largest_trained_sparsity(self) -> float:
        """The largest sparsity to measure that is not above the targeting; 0 if all are."""
        trained = max(self.training.targeted_dropout().targeting, self.fixed_sparsity or 0.0)
        return max((s for s in self.sparsities if s <= trained), default=0.0)

    def repo_id(self, seed: int) -> str:
        """Return the Hub id for the export of a seed; by default the name of output_dir."""
        name = self.training.hub_model_id or Path(str(self.training.output_dir)).resolve().name
        return f"{name}-seed-{seed}" if len(self.seeds) > 1 else name

    def configuration(self) -> dict[str, Any]:
        """Return the identity of the experiment as JSON values; equal for equal experiments.

        `arguments` has arguments that differ from the defaults of their class, so it includes the
        recipe. `targeted_dropout` has all settings without the seed. `method_settings` has the
        settings of a baseline.
        """
        chosen: dict[str, Any] = {"train": self.trains, "measure": self.measures}
        for group in (self.model, self.data, self.curve):
            chosen |= _differing(asdict(group), _defaults(type(group)))
        with _restoring_accelerate():
            plain = type(self.training)(output_dir=self.training.output_dir)
        chosen |= _differing(self.training.to_dict(), plain.to_dict())
        settings = self.training.targeted_dropout().to_dict()
        settings.pop("seed")
        own = METHODS[self.curve.method].settings(self.training.level, self.method_settings)
        method = {} if own is None else {"method_settings": own}
        return {"arguments": chosen, "targeted_dropout": settings, **method}


@contextmanager
def _restoring_accelerate() -> Iterator[None]:
    """Restore accelerate's state of processes and devices: new training arguments reset it."""
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
