"""The GLUE tasks and the built-in one as problems."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
)

from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.data import shown_name
from hf_td.tasks.experiment.errors import blaming_input
from hf_td.tasks.experiment.models import ModelSource, find_model, possible_length
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.glue import (
    Task,
    acceptability,
    compute_metrics,
    get_task,
    label_names,
    load_task,
    tokenize,
)


def glue_problem(arguments: Arguments) -> Problem:
    """The problem that the arguments name; cheap checks come before anything is loaded.

    Raises:
        UsageError: the task, the model or the data do not exist or do not fit.
    """
    data = arguments.data
    with blaming_input():
        task = get_task(data.task_name)
    source = find_model(arguments.model)
    with blaming_input():
        splits = load_task(
            task,
            data.dataset_name,
            max_train_samples=data.max_train_samples,
            max_eval_samples=data.max_eval_samples,
            drop_fragments=data.drop_fragments,
            held_out=data.held_out,
        )
    tokenizer = source.load_tokenizer()
    config = source.load_config(**_labels(task, splits), pad_token_id=tokenizer.pad_token_id)
    length = possible_length(data.max_seq_length, tokenizer, config)
    tokenized = tokenize(splits, task, tokenizer, length)
    evaluation = _named_evaluation(task, tokenized)
    mismatched = arguments.model.ignore_mismatched_sizes
    return Problem(
        task=task.name,
        dataset=_dataset_name(data.dataset_name, task),
        dataset_config=task.name,
        split=task.validation_splits[0] if data.held_out is None else "held-out training",
        metric=f"{next(iter(evaluation))}_{task.primary}" if len(evaluation) > 1 else task.primary,
        make_model=partial(_load, source, config, mismatched),
        load_model=AutoModelForSequenceClassification.from_pretrained,
        processor=tokenizer,
        train_data=tokenized["train"],
        eval_data=evaluation if len(evaluation) > 1 else next(iter(evaluation.values())),
        collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics(task),
    )


def _dataset_name(given: str, task: Task) -> str:
    if task.name == acceptability.NAME:
        return "hf_td's built-in acceptability task"
    return shown_name(given)


def _load(source: ModelSource, config: PretrainedConfig, mismatched: bool) -> Any:
    return source.load_model(
        AutoModelForSequenceClassification, config, ignore_mismatched_sizes=mismatched
    )


def _labels(task: Task, splits: datasets.DatasetDict) -> dict[str, Any]:
    """The settings of the head."""
    names = label_names(splits)
    if task.is_regression or names is None:
        return {"num_labels": task.num_labels}
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def _named_evaluation(task: Task, splits: datasets.DatasetDict) -> dict[str, datasets.Dataset]:
    """Validation sets by what sets them apart: matched and mismatched."""
    return {name.removeprefix("validation_"): splits[name] for name in task.validation_splits}
