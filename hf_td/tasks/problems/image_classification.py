"""Image classification as a problem."""

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

from hf_td.tasks.experiment.arguments import Arguments, argument
from hf_td.tasks.experiment.data import (
    DatasetArguments,
    check_columns,
    check_samples,
    load_splits,
    shown_name,
)
from hf_td.tasks.experiment.errors import UsageError, blaming_input
from hf_td.tasks.experiment.models import ModelSource, find_model
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.glue.subsets import first_rows, random_subset
from hf_td.tasks.problems.digits import load_digits

DIGITS = "digits"  # the name of the images that scikit-learn bundles
_MODES = {1: "L", 3: "RGB"}  # of an image, by its channels


@dataclass(kw_only=True)
class ImageArguments(DatasetArguments):
    """Which images to fine-tune on; `--dataset_name digits` are those that scikit-learn bundles."""

    image_column: str = argument("image", "column that holds the images")
    label_column: str = argument("label", "column that holds the classes")


def image_classification_problem(arguments: Arguments) -> Problem:
    """The problem that the arguments name; its metric is the accuracy.

    Raises:
        UsageError: the model or the images do not exist or do not fit.
    """
    data: ImageArguments = arguments.data
    source = find_model(arguments.model)
    with blaming_input():
        splits = _load_images(data)
    names = splits["train"].features[data.label_column].names
    config = source.load_config(
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    processor = source.load_image_processor(_image_size(config))
    train = random_subset(splits["train"], data.max_train_samples)
    validation = first_rows(splits["validation"], data.max_eval_samples)
    prepared = [Images(rows, data, processor, config) for rows in (train, validation)]
    _check_size(prepared[0], config)
    return Problem(
        task="image classification",
        dataset=_dataset_name(data.dataset_name),
        dataset_config=data.dataset_config_name,
        split=data.validation_split,
        metric="accuracy",
        make_model=partial(_load, source, config, arguments.model.ignore_mismatched_sizes),
        load_model=AutoModelForImageClassification.from_pretrained,
        processor=processor,
        train_data=prepared[0],
        eval_data=prepared[1],
        collator=default_data_collator,
        compute_metrics=accuracy,
        reduce_logits=classes,
    )


class Images(torch.utils.data.Dataset):
    """Images, each prepared for the model when it is asked for: prepared they take much memory.

    Args:
        rows: with a column of images and one of classes.
        data: names the columns.
        processor: of the model.
        config: of the model.
    """

    def __init__(
        self, rows: datasets.Dataset, data: ImageArguments, processor: Any, config: Any
    ) -> None:
        self.rows = rows
        self.columns = data.image_column, data.label_column
        self.processor = processor
        self.mode = _MODES.get(getattr(config, "num_channels", 3), "RGB")

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image, `(channels, height, width)`, and its class."""
        image, label = (self.rows[index][column] for column in self.columns)
        pixels = self.processor(images=image.convert(self.mode), return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"][0], "labels": label}


def classes(logits: Any, labels: Tensor) -> Tensor:
    """The class of each row, from logits of shape `(rows, classes)`."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of the rows whose class is right."""
    right = np.asarray(prediction.predictions) == np.asarray(prediction.label_ids)
    return {"accuracy": float(right.mean())}


def _load_images(data: ImageArguments) -> datasets.DatasetDict:
    """Both splits, checked; classes that are no `ClassLabel` become one."""
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
            f"the column {data.image_column} must hold images; it holds {found[data.image_column]}"
        )
    if not isinstance(found[data.label_column], datasets.ClassLabel):
        splits = _encode_classes(splits, data.label_column)
    return splits


def _encode_classes(splits: datasets.DatasetDict, column: str) -> datasets.DatasetDict:
    values = [set(map(str, split[column])) for split in splits.values()]
    names = datasets.ClassLabel(names=sorted(set.union(*values)))
    return splits.cast_column(column, datasets.Value("string")).cast_column(column, names)


def _dataset_name(given: str) -> str:
    return "scikit-learn's digits" if given == DIGITS else shown_name(given)


def _image_size(config: PretrainedConfig) -> int:
    size = getattr(config, "image_size", None) or 224
    return size if isinstance(size, int) else size[0]


def _check_size(images: Images, config: PretrainedConfig) -> None:
    """Raise UsageError where the processor makes images of another size than the model takes."""
    height = images[0]["pixel_values"].shape[-2]
    wanted = getattr(config, "image_size", None)
    if wanted is not None and _image_size(config) != height:
        raise UsageError(
            f"the image processor makes images of height {height}, and the model takes "
            f"{_image_size(config)}; give the processor that belongs to the model"
        )


def _load(source: ModelSource, config: PretrainedConfig, mismatched: bool) -> Any:
    return source.load_model(
        AutoModelForImageClassification, config, ignore_mismatched_sizes=mismatched
    )
