"""Checks arguments before anything is loaded, downloaded or trained."""

from __future__ import annotations

import logging
from pathlib import Path

from hf_td.config import IN_TRAINING
from hf_td.files import read_json_object
from hf_td.hub.forms import check_form
from hf_td.tasks.data.subsets import check_size
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import START, Arguments
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.models import locate

logger = logging.getLogger(__name__)

_LARGEST_SEED = 2**32 - 1  # limit of numpy, which `set_seed` seeds too


def check_arguments(arguments: Arguments) -> None:
    """Raise UsageError for arguments that cannot work on this machine; warn of doubtful ones."""
    check_values(arguments)
    if arguments.training.teacher not in (None, START):
        locate(arguments.training.teacher)
    _check_checkpoint(arguments)
    _warn_of_untrained(arguments)


def check_values(arguments: Arguments) -> None:
    """Raise UsageError for values that cannot work on any machine."""
    if arguments.curve.method not in METHODS:
        raise UsageError(
            f"unknown method {arguments.curve.method!r}. Give one of {', '.join(sorted(METHODS))}."
        )
    with blaming_input():
        METHODS[arguments.curve.method].settings(
            arguments.training.level, arguments.method_settings
        )
    _check_importance(arguments)
    _check_eval_sparsity(arguments)
    _check_choosing(arguments)
    _check_length(arguments)
    _check_dense_stage(arguments)
    _check_taught(arguments)
    with blaming_input():
        check_size("calibration_samples", arguments.curve.calibration_samples)
    if arguments.curve.checkpoint_minutes < 0:
        raise UsageError(
            f"--checkpoint_minutes is at least 0, got {arguments.curve.checkpoint_minutes:g}."
        )
    _check_sparsities(arguments)
    _check_export(arguments)
    _check_seeds(arguments.seeds)


def _check_length(arguments: Arguments) -> None:
    epochs = arguments.training.num_train_epochs
    if epochs < 0:  # the Trainer would silently make no update
        raise UsageError(
            f"--num_train_epochs is at least 0, got {epochs:g}. To measure without training, give "
            "--do_eval."
        )


def _check_dense_stage(arguments: Arguments) -> None:
    epochs, rate = arguments.curve.dense_epochs, arguments.curve.dense_learning_rate
    if epochs is not None and epochs < 0:
        raise UsageError(f"--dense_epochs is at least 0, got {epochs}.")
    if rate <= 0:
        raise UsageError(f"--dense_learning_rate is positive, got {rate}.")


def _check_taught(arguments: Arguments) -> None:
    variants = getattr(arguments.data, "augment", 0)
    if variants < 0:
        raise UsageError(f"--augment is at least 0, got {variants}.")
    given = {"--transfer_set": getattr(arguments.data, "transfer_set", None), "--augment": variants}
    for option, value in given.items():
        if value and arguments.training.teacher is None:
            raise UsageError(
                f"{option} adds rows that a teacher labels, and there is none. Give --teacher, "
                "such as --teacher start, or leave it out."
            )


def _check_importance(arguments: Arguments) -> None:
    importance = arguments.training.targeted_dropout().importance
    if METHODS[arguments.curve.method].targets and importance not in IN_TRAINING:
        raise UsageError(
            f"--importance {importance} ranks for pruning alone. Method {arguments.curve.method} "
            f"ranks while it trains. Give one of {list(IN_TRAINING)}."
        )


def _check_eval_sparsity(arguments: Arguments) -> None:
    method = arguments.curve.method
    if arguments.training.eval_sparsity is not None and not METHODS[method].targets:
        raise UsageError(
            f"--eval_sparsity prunes by the ranking of targeted dropout, and method {method} has "
            "none. Leave it out."
        )


def _check_choosing(arguments: Arguments) -> None:
    training = arguments.training
    if training.load_best_model_at_end and training.eval_strategy == "no":
        raise UsageError(
            "--load_best_model_at_end chooses among the evaluations of a training, and there are "
            "none. Give --eval_strategy epoch --save_strategy epoch, or leave it out."
        )


def _check_sparsities(arguments: Arguments) -> None:
    sparsities = arguments.sparsities
    targeting = arguments.training.targeted_dropout().targeting
    wrong = [sparsity for sparsity in sparsities if not 0 <= sparsity <= 1]
    if wrong or not sparsities:
        raise UsageError(f"sparsities are fractions to remove, in [0, 1]. Got {wrong or 'none'}.")
    _check_fixed(arguments)
    pattern = arguments.training.pattern
    if pattern is not None and max(sparsities) > targeting:
        raise UsageError(
            f"--pattern {pattern} removes {targeting:g} of the weights at most. Give --sparsities "
            f"that are no higher, such as 0 {targeting:g}."
        )


def _check_fixed(arguments: Arguments) -> None:
    training, method = arguments.training, arguments.curve.method
    if training.fixed_sparsity is not None and not METHODS[method].targets:
        raise UsageError(
            f"--fixed_sparsity prunes by the ranking of targeted dropout, and method {method} has "
            "none. Leave it out."
        )
    fixed = arguments.fixed_sparsity
    below = [s for s in arguments.sparsities if fixed is not None and s < fixed]
    if below:
        raise UsageError(
            f"after a fixed phase {fixed:g} of the weights are zero, so the sparsities {below} "
            f"cannot be had. Give --sparsities from {fixed:g} on, or leave --fixed_sparsity out."
        )


def _warn_of_untrained(arguments: Arguments) -> None:
    targeting = arguments.training.targeted_dropout().targeting
    targeting = max(targeting, arguments.fixed_sparsity or 0.0)
    above = [sparsity for sparsity in arguments.sparsities if sparsity > targeting]
    if above and METHODS[arguments.curve.method].targets:
        logger.warning(
            "warning: the sparsities %s are above the targeting %s, so the model is not trained "
            "for them; raise --targeting",
            above,
            targeting,
        )


def _check_export(arguments: Arguments) -> None:
    wanted = arguments.curve.export_sparsity
    if wanted is not None and not 0 <= wanted <= 1:
        raise UsageError(f"--export_sparsity is a fraction to remove, in [0, 1]. Got {wanted}.")
    if wanted is not None and arguments.measures and wanted not in arguments.sparsities:
        raise UsageError(
            f"--export_sparsity {wanted} is none of the sparsities {arguments.sparsities}, "
            "so its metrics would not be known. Add it to --sparsities."
        )
    if wanted is not None and arguments.wishes:
        raise UsageError(
            "--export_sparsity says how much to prune, and so do --export_speedup, "
            "--export_max_bytes and --export_max_loss. Give the sparsity or wishes."
        )
    smaller = arguments.wishes.keys() & {"speedup", "max_bytes"}
    if (
        smaller
        and arguments.training.level == "weight"
        and arguments.curve.export_form != "archive"
    ):
        raise UsageError(
            "--level weight makes no export faster, and none smaller but the archive. Use --level "
            "unit (heads and neurons), or --export_max_bytes with --export_form archive."
        )
    if arguments.exports and not arguments.trains:
        raise UsageError("only fine-tuned models are exported. Add --do_train.")
    if arguments.exports:
        with blaming_input():
            check_form(arguments.curve.export_form)


def _check_seeds(seeds: list[int]) -> None:
    wrong = [seed for seed in seeds if not 0 <= seed <= _LARGEST_SEED]
    if wrong or not seeds:
        raise UsageError(f"seeds are in 0..{_LARGEST_SEED}. Got {wrong or 'none'}.")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"each seed can be run once. Got {seeds}.")


def _check_checkpoint(arguments: Arguments) -> None:
    checkpoint = arguments.training.resume_from_checkpoint
    if checkpoint is None or not names_a_folder(checkpoint):
        return
    if len(arguments.seeds) > 1:
        raise UsageError(
            f"--resume_from_checkpoint {checkpoint} is the checkpoint of one seed, but there are "
            f"the seeds {arguments.seeds}. Give `last` to continue each from its last checkpoint."
        )
    try:
        read_json_object(Path(checkpoint) / "trainer_state.json")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume_from_checkpoint {checkpoint} is no checkpoint of a Trainer (it has no whole "
            "trainer_state.json). Give such a folder, or `last` for the newest whole one."
        ) from error


def names_a_folder(checkpoint: str | bool | None) -> bool:
    """Return True if `--resume_from_checkpoint` is a folder, not `last` or a truth value."""
    return str(checkpoint).lower() not in ("none", "", "false", "true", "last")
