"""Text classification and regression on the user's own data as a `Task`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from transformers import AutoModelForSequenceClassification

from hf_td.tasks.data.splits import shown_name, source_of
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.labels import first_output, lower_is_better
from hf_td.tasks.models import ModelSource, possible_length
from hf_td.tasks.task import Task
from hf_td.tasks.taught import load_transfer_set
from hf_td.tasks.text_classification.arguments import TextClassificationArguments
from hf_td.tasks.text_classification.loading import prepare_texts


def text_classification_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the data that the arguments name, for a model.

    Raises:
        UsageError: the model or the data do not exist or do not fit.
    """
    data: TextClassificationArguments = arguments.data
    tokenizer = source.load_tokenizer()
    length = possible_length(data.max_seq_length, tokenizer, source.load_config())
    with blaming_input():
        texts = prepare_texts(replace(data, max_seq_length=length), tokenizer)
        transfer = load_transfer_set(
            data.transfer_set, data.text_columns, tokenizer, length, data.label_columns
        )
    config = source.load_config(**texts.labels.config, pad_token_id=tokenizer.pad_token_id)
    ready = texts.for_trainer
    return Task(
        name=texts.labels.task_name("text"),
        dataset=shown_name(source_of(data)),
        dataset_config=data.dataset_config_name,
        split=texts.measured,
        labels=texts.labels.names,
        metric=texts.metric,
        lower_is_better=lower_is_better(texts.metric.removeprefix("validation_")),
        make_model=partial(
            source.load_model,
            AutoModelForSequenceClassification,
            config,
            ignore_mismatched_sizes=arguments.model.ignore_mismatched_sizes,
        ),
        load_model=AutoModelForSequenceClassification.from_pretrained,
        processor=tokenizer,
        train_data=ready["train_dataset"],
        eval_data=ready["eval_dataset"],
        transfer_data=transfer,
        variants=data.augment,
        collator=ready["data_collator"],
        compute_metrics=ready["compute_metrics"],
        reduce_logits=first_output,
    )
