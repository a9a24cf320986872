"""A task of GLUE, or the built-in task `acceptability`, as a `Task`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from hf_td.tasks.data.splits import shown_name
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.glue import acceptability
from hf_td.tasks.glue.benchmark import GlueTask, get_glue_task
from hf_td.tasks.glue.loading import (
    GLUE_DATASET,
    label_names,
    load_glue,
    tokenize,
)
from hf_td.tasks.glue.metrics import compute_metrics
from hf_td.tasks.models import ModelSource, possible_length
from hf_td.tasks.task import Task
from hf_td.tasks.taught import TaughtArguments, load_transfer_set


@dataclass
class GlueArguments(TaughtArguments):
    """The task of GLUE to fine-tune on."""

    task_name: str = field(metadata={"help": "a GLUE task, or acceptability, which is built in"})
    dataset_name: str = argument(GLUE_DATASET, "local folder or Hub id with the GLUE tasks")
    max_seq_length: int = argument(128, "longer inputs are truncated to this number of tokens")
    max_train_samples: int | None = argument(None, "train on a fixed random subset of this size")
    drop_fragments: bool = argument(
        False,
        "drop training rows whose text is part of another row's; SST-2 has many such phrases",
    )
    max_eval_samples: int | None = argument(None, "evaluate on the first rows, this many")
    held_out: int | None = argument(
        None,
        "evaluate on this many rows held out of the training set, not on the validation set; "
        "for choosing settings",
    )


def glue_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the data that the arguments name, for a model.

    Raises:
        UsageError: the task, the model or the data do not exist or do not fit.
    """
    data: GlueArguments = arguments.data
    with blaming_input():
        glue = get_glue_task(data.task_name)
    with blaming_input():
        splits = load_glue(
            glue,
            data.dataset_name,
            max_train_samples=data.max_train_samples,
            max_eval_samples=data.max_eval_samples,
            drop_fragments=data.drop_fragments,
            held_out=data.held_out,
        )
    tokenizer = source.load_tokenizer()
    config = source.load_config(**_head(glue, splits), pad_token_id=tokenizer.pad_token_id)
    length = possible_length(data.max_seq_length, tokenizer, config)
    with blaming_input():
        transfer = load_transfer_set(data.transfer_set, glue.sentences, tokenizer, length)
    tokenized = tokenize(splits, glue, tokenizer, length)
    # MNLI has two validation splits: matched and mismatched.
    evaluation = {n.removeprefix("validation_"): tokenized[n] for n in glue.validation_splits}
    first, several = next(iter(evaluation)), len(evaluation) > 1
    builtin = glue.name == acceptability.NAME
    return Task(
        name=glue.name,
        dataset="hf_td's built-in acceptability task" if builtin else shown_name(data.dataset_name),
        dataset_config=glue.name,
        split=glue.validation_splits[0] if data.held_out is None else "held-out training",
        metric=f"{first}_{glue.primary}" if several else glue.primary,
        make_model=partial(
            source.load_model,
            AutoModelForSequenceClassification,
            config,
            ignore_mismatched_sizes=arguments.model.ignore_mismatched_sizes,
        ),
        load_model=AutoModelForSequenceClassification.from_pretrained,
        processor=tokenizer,
        train_data=tokenized["train"],
        eval_data=evaluation if several else evaluation[first],
        transfer_data=transfer,
        variants=data.augment,
        collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics(glue),
    )


def _head(glue: GlueTask, splits: datasets.DatasetDict) -> dict[str, Any]:
    """Return the config entries of the classification head."""
    names = label_names(splits)
    if glue.is_regression or names is None:
        return {"num_labels": glue.num_labels}
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
