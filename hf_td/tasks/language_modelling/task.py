"""Causal language modelling as a `Task`: predict the next token of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    default_data_collator,
)

from hf_td.anatomy import evaluating
from hf_td.tasks.data.splits import (
    DatasetArguments,
    check_columns,
    check_samples,
    check_text,
    load_splits,
    own_splits,
    shown_name,
    source_of,
)
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.language_modelling.continuation import continue_text
from hf_td.tasks.language_modelling.self_text import write_splits
from hf_td.tasks.models import ModelSource, Tokenizer
from hf_td.tasks.task import Task

SELF = "self"  # --dataset_name of text that the model writes itself
_BLOCK_SIZE = 512


@dataclass(kw_only=True)
class LanguageModellingArguments(DatasetArguments):
    """The text to fine-tune on; with `--dataset_name self` the model writes it."""

    text_column: str = argument("text", "column with the text")
    block_size: int | None = argument(
        None, "tokens in an example; by default 512, or the most that the model takes"
    )
    self_tokens: int = argument(
        200_000,
        "with --dataset_name self, tokens to write for training; the splits validation and test "
        "get an eighth each",
    )


def language_modelling_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the text that the arguments name, for a model; the metric is the perplexity.

    The tokens of all rows are concatenated and cut into blocks of `block_size`; the incomplete last
    block is dropped. The perplexity is exp of the mean loss of all tokens except the first of each
    block.

    Raises:
        UsageError: the model or the text do not exist or do not fit.
    """
    data: LanguageModellingArguments = arguments.data
    with blaming_input():
        check_samples(data)
    tokenizer = source.load_tokenizer()
    config = source.load_config()
    size = _block_size(data.block_size, config)
    make_model = partial(_load, source, config)
    texts, measured = _texts(data, tokenizer, make_model)
    blocks = {name: _blocks(rows, tokenizer, size, name) for name, rows in texts.items()}
    measured_blocks = first_rows(blocks["validation"], data.max_eval_samples)
    return Task(
        name="language modelling",
        dataset=_dataset_name(arguments),
        dataset_config=data.dataset_config_name,
        split=measured,
        metric="perplexity",
        lower_is_better=True,
        make_model=make_model,
        load_model=AutoModelForCausalLM.from_pretrained,
        processor=tokenizer,
        train_data=random_subset(blocks["train"], data.max_train_samples),
        eval_data=measured_blocks,
        collator=default_data_collator,
        compute_metrics=perplexity,
        reduce_logits=token_losses,
        continue_text=lambda model: continue_text(
            model, tokenizer, measured_blocks[0]["input_ids"]
        ),
    )


def token_losses(logits: Any, labels: Tensor) -> Tensor:
    """Return the loss of each token except the first.

    Args:
        logits: `(rows, length, vocabulary)`, or a tuple that starts with such logits.
        labels: `(rows, length)`.

    Returns:
        `(rows, length - 1)`, in float32.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    # Row by row: a float32 copy of all logits would be large, and classes that are not the last
    # dimension are slow.
    rows = [
        functional.cross_entropy(row[:-1].float(), tokens[1:], reduction="none")
        for row, tokens in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows)


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Return exp of the mean token loss; infinite on overflow."""
    loss = float(np.mean(prediction.predictions, dtype=np.float64))
    return {"perplexity": float(torch.tensor(loss, dtype=torch.float64).exp())}


def _dataset_name(arguments: Arguments) -> str:
    if arguments.data.dataset_name == SELF:
        return f"text that {shown_name(arguments.model.model_name_or_path)} wrote"
    return shown_name(source_of(arguments.data))


def _block_size(wanted: int | None, config: PretrainedConfig) -> int:
    most = getattr(config, "max_position_embeddings", None) or math.inf
    if wanted is None:
        return int(min(_BLOCK_SIZE, most))
    if not 2 <= wanted <= most:
        raise UsageError(
            f"block_size is {wanted}. The model takes 2 to {most} tokens. Change --block_size."
        )
    return wanted


def _load(source: ModelSource, config: PretrainedConfig) -> PreTrainedModel:
    model = source.load_model(AutoModelForCausalLM, config)
    _check_causal(model)
    return model


@torch.no_grad()
def _check_causal(model: PreTrainedModel) -> None:
    """Raise UsageError if predictions depend on later tokens, as in an encoder."""
    tokens = torch.arange(8).expand(2, 8).clone()
    tokens[1, -1] = 0
    with evaluating(model):
        first, second = model(tokens).logits[:, :-1]
    if not torch.allclose(first, second, atol=1e-4):
        raise UsageError(
            f"{type(model).__name__} predicts tokens that it can see, so it is no causal language "
            "model as configured. For some models, give --config_overrides is_decoder=true."
        )


def _texts(
    data: LanguageModellingArguments, tokenizer: Tokenizer, make_model: Any
) -> tuple[Mapping[str, Iterable[str]], str]:
    """Return the texts of both splits, and the split that is measured, in words."""
    with blaming_input():
        if data.dataset_name == SELF:
            names = own_splits(data)
            texts = write_splits(make_model(), tokenizer, data.self_tokens, names)
            return texts, names["validation"]
        splits, measured = load_splits(data, f"--dataset_name {SELF}")
        check_columns(splits, [data.text_column], "--text_column")
        check_text(splits, [data.text_column], "--text_column")
    return {str(name): split[data.text_column] for name, split in splits.items()}, measured


def _blocks(
    texts: Iterable[str | None], tokenizer: Tokenizer, size: int, name: str
) -> datasets.Dataset:
    """Return rows of `size` tokens, in `input_ids` and in `labels`."""
    encoded = tokenizer([text for text in texts if text]).input_ids
    tokens = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
    count = len(tokens) // size
    if not count:
        raise UsageError(
            f"the {name} split has {len(tokens)} tokens, less than one block of {size}. Give more "
            "text or a smaller --block_size."
        )
    blocks = tokens[: count * size].reshape(count, size)
    return datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks}).with_format("torch")
