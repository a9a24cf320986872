"""Image classification as a `Task`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import torch
from transformers import AutoModelForImageClassification, PretrainedConfig, default_data_collator

from hf_td.tasks.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    Loaded,
    check_samples,
    load_splits,
    own_splits,
    shown_name,
    source_of,
)
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.image_classification.digits import load_digits
from hf_td.tasks.image_classification.pictures import as_images
from hf_td.tasks.labels import (
    LabelArguments,
    check_labels,
    check_metric,
    encode,
    first_output,
    label_metrics,
    lower_is_better,
    read_labels,
    warn_if_alike,
)
from hf_td.tasks.models import ModelSource
from hf_td.tasks.task import Task

DIGITS = "digits"  # --dataset_name of the images that scikit-learn bundles
_MODES = {1: "L", 3: "RGB"}  # mode of an image by its number of channels


@dataclass(kw_only=True)
class ImageClassificationArguments(LabelArguments):
    """The images to fine-tune on; `--dataset_name digits` are bundled with scikit-learn."""

    image_column: str = argument(
        "image", "column with the images, or with their paths from the folder of the file"
    )


def image_classification_task(arguments: Arguments, source: ModelSource) -> Task:
    """Load the images that the arguments name, for a model.

    Raises:
        UsageError: the model or the images do not exist or do not fit.
    """
    data: ImageClassificationArguments = arguments.data
    with blaming_input():
        splits, measured = _load_images(data)
        labels = read_labels(splits, data)
        metric = check_metric(labels, data.metric)
        encoded = {str(name): encode(rows, labels, str(name)) for name, rows in splits.items()}
    config = source.load_config(**labels.config)
    processor = source.load_image_processor(_image_size(config))
    rows = {name: first_rows(split, data.max_eval_samples) for name, split in encoded.items()}
    rows[TRAIN] = random_subset(encoded[TRAIN], data.max_train_samples)
    for name in rows.keys() - {TRAIN}:
        warn_if_alike(rows[name], name)
    prepared = {name: Images(r, data.image_column, processor, config) for name, r in rows.items()}
    _check_size(prepared[TRAIN], config)
    several = TEST in prepared
    return Task(
        name=labels.task_name("image"),
        dataset="scikit-learn's digits" if _is_digits(data) else shown_name(source_of(data)),
        dataset_config=data.dataset_config_name,
        split=measured,
        labels=labels.names,
        metric=f"{VALIDATION}_{metric}" if several else metric,
        lower_is_better=lower_is_better(metric),
        make_model=partial(
            source.load_model,
            AutoModelForImageClassification,
            config,
            ignore_mismatched_sizes=arguments.model.ignore_mismatched_sizes,
        ),
        load_model=AutoModelForImageClassification.from_pretrained,
        processor=processor,
        train_data=prepared[TRAIN],
        eval_data={n: prepared[n] for n in (VALIDATION, TEST)} if several else prepared[VALIDATION],
        collator=default_data_collator,
        compute_metrics=label_metrics(labels),
        reduce_logits=first_output,
    )


class Images(torch.utils.data.Dataset):
    """Images that are prepared for the model on access, to save memory.

    Args:
        rows: rows with a column of images, and targets in `labels`.
        column: column with the images.
        processor: image processor of the model.
        config: configuration of the model.
    """

    def __init__(self, rows: datasets.Dataset, column: str, processor: Any, config: Any) -> None:
        self.rows = rows
        self.column = column
        self.processor = processor
        self.mode = _MODES.get(getattr(config, "num_channels", 3), "RGB")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one image, `(channels, height, width)`, and its target."""
        row = self.rows[index]
        pixels = self.processor(images=row[self.column].convert(self.mode), return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"][0], "labels": row["labels"]}


def _is_digits(data: ImageClassificationArguments) -> bool:
    return data.dataset_name == DIGITS and data.train_file is None


def _load_images(data: ImageClassificationArguments) -> Loaded:
    """Load the splits, with images and labels."""
    check_samples(data)
    label = data.label_columns[0]
    if _is_digits(data):
        names = own_splits(data)
        return Loaded(load_digits(names, data.image_column, label), names[VALIDATION])
    splits, measured = load_splits(
        data,
        f"--dataset_name {DIGITS}",
        label=label,
        test_file=data.test_file,
        check=lambda whole: check_labels(whole, data),
    )
    return Loaded(as_images(splits, data.image_column, source_of(data)), measured)


def _image_size(config: PretrainedConfig) -> int:
    size = getattr(config, "image_size", None) or 224
    return size if isinstance(size, int) else size[0]


def _check_size(images: Images, config: PretrainedConfig) -> None:
    """Raise UsageError if the processor makes images of another size than the model takes."""
    height = images[0]["pixel_values"].shape[-2]
    wanted = getattr(config, "image_size", None)
    if wanted is not None and _image_size(config) != height:
        raise UsageError(
            f"the image processor makes images of height {height}, and the model takes "
            f"{_image_size(config)}. Name the processor of the model with --tokenizer_name."
        )
