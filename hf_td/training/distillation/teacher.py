"""Loads a dense teacher that was fine-tuned on the task, and compares it with the student."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from hf_td.modules.stock_models import stock_class
from hf_td.training.vocabulary import knows_words

ADAPTER_CONFIG = "adapter_config.json"  # of peft


@lru_cache(maxsize=1)  # runs of several seeds share one teacher
def _load(
    name: str, files: tuple[Any, ...], dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    config = _config_of(name)
    known: Any = stock_class(config.architectures)
    if known is None:
        raise ValueError(
            f"the teacher {name} is of no class that transformers has. Its config names "
            f"{config.architectures}"
        )
    model = known.from_pretrained(name, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def _config_of(name: str) -> Any:
    if (Path(name) / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"the teacher {name} is an adapter, and a whole model was expected. Merge it first "
            "(`merge_and_unload`), and give the folder that `save_pretrained` writes"
        )
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise type(error)(
            f"the teacher {name} cannot be loaded: {error}. Give the folder of a model that "
            "`save_pretrained` wrote, or an id on the Hub"
        ) from error


def _files(name: str) -> tuple[Any, ...]:
    """Return a key that changes when a folder is rewritten; empty for an id on the Hub."""
    files = [path for path in sorted(Path(name).glob("*")) if path.is_file()]
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def load_teacher(name: str, student: PreTrainedModel, tokenizer: Any = None) -> PreTrainedModel:
    """Load a teacher, in eval mode and without gradients, on the device of the student.

    The last teacher stays in memory and is returned again while its files are unchanged, until
    another is loaded or `forget_teacher` is called.

    Args:
        name: a folder, or an id on the Hub.
        student: a model of the same task.
        tokenizer: the student's, whose vocabulary the teacher's must equal; None skips that check.

    Raises:
        ValueError: task, vocabulary or labels differ.
    """
    parameter = next(student.parameters())
    teacher = _load(name, _files(name), parameter.dtype, parameter.device)
    ours, theirs = student.config, teacher.config
    _check_equal(name, "the task", task_of(student), task_of(teacher))
    check_problem(ours, theirs)
    _check_equal(name, "the size of the vocabulary", _vocabulary(ours), _vocabulary(theirs))
    _check_equal(name, "the number of labels", ours.num_labels, theirs.num_labels)
    if _names_labels(ours) and _names_labels(theirs):
        _check_equal(name, "the labels", ours.id2label, theirs.id2label)
    if hasattr(tokenizer, "get_vocab"):
        _check_tokens(name, tokenizer)
    return teacher


def check_problem(*configs: Any) -> None:
    """Raise ValueError if the logits of a model are those of several labels at once."""
    if any(config.problem_type == "multi_label_classification" for config in configs):
        raise ValueError(
            "logits of several labels at once are not one distribution, and cannot be distilled. "
            "Train without a teacher"
        )


def forget_teacher() -> None:
    """Free the teacher that `load_teacher` keeps in memory."""
    _load.cache_clear()


def _check_equal(name: str, what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(
            f"the teacher {name} does not fit the student: {what} is {theirs}, not {ours}. Use a "
            "teacher that was fine-tuned on the same task with the same tokenizer"
        )


def _check_tokens(name: str, tokenizer: Any) -> None:
    try:
        own = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        own = None
    if own is None or not knows_words(own):
        return  # saved without a tokenizer: equal sizes have to suffice
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"the teacher {name} does not fit the student: their vocabularies differ. Use a "
            "teacher with the same tokenizer"
        )


def task_of(model: PreTrainedModel) -> str:
    """Return the name of the loss in transformers, such as ForSequenceClassification."""
    known, name = getattr(model, "loss_type", None), type(model).__name__
    return known or ("ForCausalLM" if name.endswith("LMHeadModel") else name)


@torch.no_grad()
def shifts_labels(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    """Return True for a decoder whose loss compares the logits of a token with the next token.

    Some compare them with the token itself, such as `BartForCausalLM` and `XLNetLMHeadModel`: their
    loss of one batch tells.

    Args:
        model: a model in eval mode.
        inputs: keyword arguments of its forward, without labels.
    """
    task = task_of(model)
    language = task == "ForCausalLM" or LOSS_MAPPING.get(task) is ForCausalLMLoss
    if not language or model.config.is_encoder_decoder:
        return False
    ids = inputs.get("input_ids")
    if ids is None:
        return True
    outputs = model(**inputs, labels=ids)
    logits = outputs["logits"].float()
    if logits.shape[:-1] != ids.shape:
        return True
    next_token = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    same_token = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    loss = outputs["loss"].float().mean()
    return bool((loss - next_token).abs() <= (loss - same_token).abs())


def _vocabulary(config: Any) -> int | None:
    return getattr(config.get_text_config(), "vocab_size", None)


def _names_labels(config: Any) -> bool:
    return not any(str(label).startswith("LABEL_") for label in config.id2label.values())
