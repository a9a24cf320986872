"""Image classification as a `Task`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    EvalPrediction,
    PretrainedConfig,
    default_data_collator,
)

from hf_td.tasks.data.splits import (
    DatasetArguments,
    check_columns,
    check_samples,
    load_splits,
    shown_name,
)
from hf_td.tasks.data.subsets import first_rows, random_subset
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.image_classification.digits import load_digits
from hf_td.tasks.models import find_model
from hf_td.tasks.task import Task

DIGITS = "digits"  # --dataset_name of the images that scikit-learn bundles
_MODES = {1: "L", 3: "RGB"}  # mode of an image by its number of channels


@dataclass(kw_only=True)
class ImageClassificationArguments(DatasetArguments):
    """The images to fine-tune on; `--dataset_name digits` are bundled with scikit-learn."""

    image_column: str = argument("image", "column with the images")
    label_column: str = argument("label", "column with the classes")


def image_classification_task(arguments: Arguments) -> Task:
    """Load the model and the images that the arguments name; the metric is the accuracy.

    Raises:
        UsageError: the model or the images do not exist or do not fit.
    """
    data: ImageClassificationArguments = arguments.data
    source = find_model(arguments.model)
    with blaming_input():
        splits = _load_images(data)
    classes = splits["train"].features[data.label_column].names
    config = source.load_config(
        id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)}
    )
    processor = source.load_image_processor(_image_size(config))
    train = random_subset(splits["train"], data.max_train_samples)
    validation = first_rows(splits["validation"], data.max_eval_samples)
    prepared = [Images(rows, data, processor, config) for rows in (train, validation)]
    _check_size(prepared[0], config)
    name = data.dataset_name
    return Task(
        name="image classification",
        dataset="scikit-learn's digits" if name == DIGITS else shown_name(name),
        dataset_config=data.dataset_config_name,
        split=data.validation_split,
        metric="accuracy",
        make_model=partial(
            source.load_model,
            AutoModelForImageClassification,
            config,
            ignore_mismatched_sizes=arguments.model.ignore_mismatched_sizes,
        ),
        load_model=AutoModelForImageClassification.from_pretrained,
        processor=processor,
        train_data=prepared[0],
        eval_data=prepared[1],
        collator=default_data_collator,
        compute_metrics=accuracy,
        reduce_logits=predicted_classes,
    )


class Images(torch.utils.data.Dataset):
    """Images that are prepared for the model on access, to save memory.

    Args:
        rows: rows with a column of images and a column of classes.
        data: names the columns.
        processor: image processor of the model.
        config: configuration of the model.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        data: ImageClassificationArguments,
        processor: Any,
        config: Any,
    ) -> None:
        self.rows = rows
        self.columns = data.image_column, data.label_column
        self.processor = processor
        self.mode = _MODES.get(getattr(config, "num_channels", 3), "RGB")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one image, `(channels, height, width)`, and its class."""
        image, label = (self.rows[index][column] for column in self.columns)
        pixels = self.processor(images=image.convert(self.mode), return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"][0], "labels": label}


def predicted_classes(logits: Any, labels: Tensor) -> Tensor:
    """Return the class of each row, from logits `(rows, classes)`."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of rows whose class is right."""
    right = np.asarray(prediction.predictions) == np.asarray(prediction.label_ids)
    return {"accuracy": float(right.mean())}


def _load_images(data: ImageClassificationArguments) -> datasets.DatasetDict:
    """Load and check both splits; other labels are converted to `ClassLabel`."""
    check_samples(data)
    if data.dataset_name == DIGITS:
        splits = {"train": data.train_split, "validation": data.validation_split}
        return load_digits(splits, data.image_column, data.label_column)
    splits = load_splits(data, f"--dataset_name {DIGITS}")
    check_columns(splits, [data.image_column], "--image_column")
    check_columns(splits, [data.label_column], "--label_column")
    found = splits["train"].features
    if not isinstance(found[data.image_column], datasets.Image):
        raise ValueError(
            f"the column {data.image_column} must hold images. It holds "
            f"{found[data.image_column]}. Name another with --image_column."
        )
    if not isinstance(found[data.label_column], datasets.ClassLabel):
        splits = _encode_classes(splits, data.label_column)
    return splits


def _encode_classes(splits: datasets.DatasetDict, column: str) -> datasets.DatasetDict:
    values = [set(map(str, split[column])) for split in splits.values()]
    names = datasets.ClassLabel(names=sorted(set.union(*values)))
    return splits.cast_column(column, datasets.Value("string")).cast_column(column, names)


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
