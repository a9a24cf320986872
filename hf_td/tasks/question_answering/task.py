"""Extractive question answering as a `Task`: the answer is a part of a text, or empty."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
)

from hf_td.tasks.data.splits import check_samples, shown_name, source_of
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.models import ModelSource, Tokenizer, possible_length
from hf_td.tasks.ordered_evaluation import OrderedEvaluationTrainer
from hf_td.tasks.question_answering.answers import Choice, answer_texts
from hf_td.tasks.question_answering.questions import (
    QuestionAnsweringArguments,
    load_questions,
    or_squad,
)
from hf_td.tasks.question_answering.squad import squad_scores
from hf_td.tasks.question_answering.windows import PLACE, longest_stride, make_windows
from hf_td.tasks.task import Task

# The head has logits of start and end, even if the model was fine-tuned for other labels.
_TWO_LOGITS: dict[str, Any] = {
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
}


def question_answering_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the questions that the arguments name, for a model; the metric is SQuAD's F1.

    Raises:
        UsageError: the model or the questions do not exist or do not fit.
    """
    data: QuestionAnsweringArguments = or_squad(arguments.data)
    _check_numbers(data)
    tokenizer = _tokenizer(source)
    config = source.load_config(**_TWO_LOGITS)
    length = possible_length(data.max_seq_length, tokenizer, config)
    _check_stride(data.doc_stride, tokenizer, length)
    splits, measured = load_questions(data)
    train = random_subset(splits["train"], data.max_train_samples)
    validation = first_rows(splits["validation"], data.max_eval_samples)
    cut = partial(make_windows, tokenizer=tokenizer, length=length, stride=data.doc_stride)
    windows = cut(validation)
    threshold = data.null_score_diff_threshold
    return Task(
        name="question answering",
        dataset=shown_name(source_of(data)),
        dataset_config=data.dataset_config_name,
        split=measured,
        metric="f1",
        make_model=partial(
            source.load_model,
            AutoModelForQuestionAnswering,
            config,
            ignore_mismatched_sizes=arguments.model.ignore_mismatched_sizes,
        ),
        load_model=AutoModelForQuestionAnswering.from_pretrained,
        processor=tokenizer,
        train_data=cut(train).remove_columns(PLACE),
        eval_data=windows.remove_columns(PLACE),
        collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=partial(
            answer_metrics,
            windows=windows.select_columns(PLACE),
            rows=validation,
            choice=Choice(
                n_best=data.n_best_size,
                max_tokens=data.max_answer_length,
                null_threshold=threshold if data.version_2_with_negative else None,
            ),
        ),
        reduce_logits=starts_and_ends,
        trainer_family=OrderedEvaluationTrainer,  # predictions and windows are matched by position
    )


def starts_and_ends(logits: Any, labels: Any) -> Tensor:
    """Stack the logits of starts and ends, the first outputs of a model: `(windows, length, 2)`."""
    starts, ends, *_ = logits
    return torch.stack([starts, ends], dim=-1)


def answer_metrics(
    prediction: EvalPrediction, *, windows: datasets.Dataset, rows: datasets.Dataset, choice: Choice
) -> dict[str, float]:
    """Return exact match and F1 of the answers, in percent.

    Args:
        prediction: logits `(windows, length, 2)`.
        windows: the columns `PLACE` of these windows.
        rows: rows of their questions.
        choice: settings for selecting an answer.
    """
    logits: Any = prediction.predictions
    places: Any = windows.with_format("numpy")
    answers = answer_texts(logits, places, list(rows["context"]), choice)
    return squad_scores(answers, [true["text"] for true in rows["answers"]])


def _check_numbers(data: QuestionAnsweringArguments) -> None:
    with blaming_input():
        check_samples(data)
    for name in ("n_best_size", "max_answer_length"):
        if getattr(data, name) < 1:
            raise UsageError(f"{name} must be at least 1, got {getattr(data, name)}.")


def _tokenizer(source: ModelSource) -> Tokenizer:
    """Load a fast tokenizer, set to pad at the end: positions count from the start."""
    tokenizer = source.load_tokenizer()
    if not tokenizer.is_fast:
        raise UsageError(
            f"the tokenizer of {source.tokenizer}, {type(tokenizer).__name__}, is not a fast one. "
            "It cannot give the position of a token in the text. Name another with "
            "--tokenizer_name, or give another model."
        )
    tokenizer.padding_side = "right"
    return tokenizer


def _check_stride(stride: int, tokenizer: Tokenizer, length: int) -> None:
    most = longest_stride(tokenizer, length)
    if not 0 <= stride <= most:
        raise UsageError(
            f"doc_stride is from 0 to {most}, so that windows of {length} tokens advance. "
            f"Got {stride}."
        )
