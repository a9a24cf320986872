"""Translation as a `Task`: an encoder-decoder, trained from scratch or fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, cast

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    Seq2SeqTrainer,
)

from hf_td.extras import extra
from hf_td.tasks.data.splits import (
    DatasetArguments,
    Loaded,
    check_samples,
    load_splits,
    shown_name,
    source_of,
)
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.models import ModelSource, Tokenizer
from hf_td.tasks.ordered_evaluation import OrderedEvaluation
from hf_td.tasks.task import Task
from hf_td.tasks.translation.vocabulary import train_tokenizer

# Training arguments that differ from the recipe: the paper's label smoothing, and generation.
TRANSLATION: dict[str, Any] = {
    "label_smoothing_factor": 0.1,
    "predict_with_generate": True,
    "generation_max_length": 128,
}
_NOT_SCORED = -100  # the label of padding
_PAIRS = "translation"  # column of the Hub's translation data: {language: sentence}


@dataclass(kw_only=True)
class TranslationArguments(DatasetArguments):
    """The sentences to learn from: a column for each language, or one of pairs as in WMT."""

    source_language: str = argument("en", "column, or key of the pairs, with the source text")
    target_language: str = argument("de", "column, or key of the pairs, with the translations")
    source_prefix: str = argument("", "text before every source sentence, as T5 expects it")
    max_length: int = argument(128, "longer sentences are truncated to this number of tokens")
    vocabulary_size: int = argument(
        8000,
        "tokens of the joint vocabulary that is trained for a new model without --tokenizer_name",
    )


def translation_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the sentences that the arguments name, for a model; the metric is BLEU.

    BLEU, from 0 to 100, is sacrebleu's with default settings, over the generated translations of
    the whole split. `token_accuracy` is the share of target tokens that are most probable given
    the true tokens before them.

    Raises:
        UsageError: the model or the sentences do not exist or do not fit.
    """
    data: TranslationArguments = arguments.data
    _check(arguments)
    with blaming_input():
        splits, measured = _load_pairs(data)
    tokenizer = _tokenizer(source, splits["train"], data)
    config = _config(source, tokenizer)
    train = random_subset(splits["train"], data.max_train_samples)
    validation = first_rows(splits["validation"], data.max_eval_samples)
    encode = partial(_encode, data=data, tokenizer=tokenizer, length=_length(data, config))
    return Task(
        name=f"translation from {data.source_language} to {data.target_language}",
        dataset=shown_name(source_of(data)),
        dataset_config=data.dataset_config_name,
        split=measured,
        metric="bleu",
        make_model=partial(source.load_model, AutoModelForSeq2SeqLM, config),
        load_model=AutoModelForSeq2SeqLM.from_pretrained,
        processor=tokenizer,
        train_data=encode(train),
        eval_data=encode(validation),
        collator=DataCollatorForSeq2Seq(tokenizer, model=_weightless(source, config)),
        compute_metrics=partial(
            translation_metrics, tokenizer=tokenizer, references=validation[data.target_language]
        ),
        trainer_family=TranslationTrainer,
    )


class TranslationTrainer(OrderedEvaluation, Seq2SeqTrainer):
    """Trainer whose evaluation generates, and also predicts each token from the true prefix."""

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Return the loss, the predicted and the generated tokens `(rows, length)`, the labels."""
        inputs = self._prepare_inputs(inputs)
        loss, generated, _ = super().prediction_step(
            model, inputs, prediction_loss_only, *args, **kwargs
        )
        if prediction_loss_only:
            return loss, None, None
        with torch.no_grad():
            predicted = model(**inputs).logits.argmax(-1)
        return loss, (predicted, generated), inputs["labels"]


def translation_metrics(
    prediction: EvalPrediction, *, tokenizer: Tokenizer, references: Sequence[str]
) -> dict[str, float]:
    """Return BLEU and token accuracy of the predictions of `TranslationTrainer`.

    Args:
        prediction: predicted and generated tokens, and labels, each `(rows, length)`. With several
            processes Seq2SeqTrainer leaves padding rows at the end; they are ignored.
        tokenizer: tokenizer of the model.
        references: true translations of the rows.
    """
    with extra("tasks"):
        from sacrebleu import corpus_bleu

    every = (*cast(tuple[Any, Any], prediction.predictions), prediction.label_ids)
    predicted, generated, labels = (np.asarray(one)[: len(references)] for one in every)
    scored = labels != _NOT_SCORED
    right = predicted == labels
    padding: Any = tokenizer.pad_token_id
    tokens = np.where(generated == _NOT_SCORED, padding, generated)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return {
        "bleu": corpus_bleu([text.strip() for text in texts], [list(references)]).score,
        "token_accuracy": float(right[scored].mean()),
    }


def _check(arguments: Arguments) -> None:
    with blaming_input():
        with extra("tasks"):
            import_module("sacrebleu")  # fails here, not after the first epoch
        check_samples(arguments.data)
    if not arguments.training.predict_with_generate:  # pyright: ignore[reportAttributeAccessIssue]
        raise UsageError("--predict_with_generate is off. BLEU is of generated text. Leave it on.")


def _load_pairs(data: TranslationArguments) -> Loaded:
    """Load both splits, with a column of text for each language."""
    splits, measured = load_splits(data, "a folder with a file for each split")
    pairs = {n: _columns(rows, data, str(n)) for n, rows in splits.items()}
    return Loaded(datasets.DatasetDict(pairs), measured)


def _columns(rows: datasets.Dataset, data: TranslationArguments, split: str) -> datasets.Dataset:
    pairs = rows.features.get(_PAIRS)
    if pairs is not None:
        keys = list(getattr(pairs, "languages", pairs))
        rows = rows.flatten().rename_columns({f"{_PAIRS}.{name}": name for name in keys})
    languages = [data.source_language, data.target_language]
    missing = [name for name in languages if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"the {split} split has no column {', '.join(missing)}. It has "
            f"{', '.join(rows.column_names)}. Name the columns with --source_language and "
            "--target_language."
        )
    return rows.select_columns(languages)


def _tokenizer(
    source: ModelSource, train: datasets.Dataset, data: TranslationArguments
) -> Tokenizer:
    """Load the model's tokenizer, or train one on both sides of the training text."""
    if source.has_tokenizer:
        return source.load_tokenizer()
    columns = (train[data.source_language], train[data.target_language])
    with blaming_input():
        return train_tokenizer(
            (text for column in columns for text in column), data.vocabulary_size
        )


def _config(source: ModelSource, tokenizer: Tokenizer) -> PretrainedConfig:
    """Load the configuration; fit that of a new model to the tokenizer.

    Its decoder starts from padding, as in T5 and Marian.
    """
    if not source.is_new:
        return source.load_config()
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": tokenizer.eos_token_id,
    }
    return source.load_config(vocab_size=len(tokenizer), **special)


def _weightless(source: ModelSource, config: PretrainedConfig) -> PreTrainedModel:
    """Make the model without weights: the collator needs its method that shifts labels."""
    with torch.device("meta"):
        return source.make_model(AutoModelForSeq2SeqLM, config)


def _length(data: TranslationArguments, config: PretrainedConfig) -> int:
    most = getattr(config, "max_position_embeddings", None) or data.max_length
    if not 2 <= data.max_length <= most:
        raise UsageError(
            f"max_length is {data.max_length}. The model takes 2 to {most} tokens. Change "
            "--max_length."
        )
    return data.max_length


def _encode(
    rows: datasets.Dataset, *, data: TranslationArguments, tokenizer: Tokenizer, length: int
) -> datasets.Dataset:
    def batch(columns: dict[str, list[str]]) -> Any:
        sources = [data.source_prefix + text for text in columns[data.source_language]]
        targets = columns[data.target_language]
        return tokenizer(sources, text_target=targets, max_length=length, truncation=True)

    return rows.map(batch, batched=True, remove_columns=rows.column_names)
