"""scripts/run_image_classification.py on the digits and on a folder of generated images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    LlamaConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.image_classification.task import (
    ImageClassificationArguments,
    image_classification_task,
)
from hf_td.tasks.models import find_model
from tests.programs import (
    argv_of,
    load_script,
    measured_the_same_by_two_processes,
    refusal,
    results_of,
    short_run,
)
from tests.tiny import SIZES

run_image_classification = load_script("run_image_classification")

TINY = {"image_size": 8, "patch_size": 2, **SIZES}
CLASSES = ["bright", "dark"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a tiny random ViT with its image processor."""
    folder = tmp_path_factory.mktemp("tiny-vit")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**TINY)).save_pretrained(folder)  # pyright: ignore
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> dict[str, list[Any]]:
    """Return grey images of another size than the model's, alternately bright and dark."""
    shades = np.random.default_rng(0).integers(0, 100, (24, 10, 12))
    shades[::2] += 150
    shown = [Image.fromarray(image.astype(np.uint8)) for image in shades]
    return {"image": shown, "label": CLASSES * 12}


@pytest.fixture
def folder(images, tmp_path) -> Path:
    """Return a folder of images in the layout of `imagefolder`."""
    for i, (image, label) in enumerate(zip(images["image"], images["label"], strict=True)):
        place = tmp_path / "images" / ("train" if i < 16 else "validation") / label
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i:02}.png")
    return tmp_path / "images"


@pytest.fixture
def options(model, tmp_path) -> dict[str, Any]:
    """Return arguments of a run of a second."""
    return {
        "model_name_or_path": model,
        "dataset_name": "digits",
        "ignore_mismatched_sizes": True,
        "max_train_samples": 64,
        "max_eval_samples": 32,
        "num_train_epochs": 1,
        **short_run(tmp_path / "out"),
    }


def _task(options: dict[str, Any]) -> Any:
    arguments = parse_arguments(argv_of(options), ImageClassificationArguments)
    return image_classification_task(arguments, find_model(arguments.model))


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_writes_the_accuracy_at_every_sparsity(options, method):
    run_image_classification.main(argv_of({**options, "method": method}))
    results = results_of(options)
    assert (results["task"], results["metric"]) == ("image classification", "accuracy")
    assert results["lower_is_better"] is False
    (run,) = results["runs"]
    assert [point["removed_prunable"] for point in run["curve"]] == [0, pytest.approx(0.5)]
    assert all(0 <= point["metrics"]["accuracy"] <= 1 for point in run["curve"])
    saved = AutoModelForImageClassification.from_pretrained(options["output_dir"] / run["model"])
    assert saved.config.id2label == {i: str(i) for i in range(10)}
    processor = AutoImageProcessor.from_pretrained(options["output_dir"] / run["model"])
    assert processor.size["height"] == 8


@pytest.mark.slow
def test_an_untrained_model_learns_the_digits_and_is_exported(options):
    overrides = ",".join(f"{name}={value}" for name, value in TINY.items())
    new = {"model_name_or_path": "new:vit", "config_overrides": overrides}
    more = {"max_train_samples": 1000, "num_train_epochs": 8, "learning_rate": 3e-3}
    options |= {**new, **more, "max_eval_samples": 200, "export_sparsity": 0.5}
    run_image_classification.main(argv_of({**options, "method": "none"}))
    assert results_of(options)["summary"][0]["metrics"]["accuracy"]["mean"] > 0.7
    export = options["output_dir"] / "seed-42" / "export"
    saved = AutoModelForImageClassification.from_pretrained(export)
    dense = ViTForImageClassification(ViTConfig(**TINY, num_labels=10))  # pyright: ignore
    assert saved.num_parameters() < 0.7 * dense.num_parameters()
    assert "based on" not in (export / "README.md").read_text()


def test_a_folder_of_images_is_classified(options, folder):
    options |= {"dataset_name": folder, "num_train_epochs": 20, "learning_rate": 3e-3}
    run_image_classification.main(argv_of({**options, "method": "none"}))
    assert results_of(options)["summary"][0]["metrics"]["accuracy"]["mean"] > 0.8
    saved = AutoModelForImageClassification.from_pretrained(options["output_dir"] / "seed-42")
    assert saved.config.id2label == dict(enumerate(CLASSES))


# ---- data --------------------------------------------------------------------------------------


def test_images_are_prepared_as_the_processor_does(options, folder, model):
    task = _task({**options, "dataset_name": folder})
    first = task.train_data[0]
    image = Image.open(min((folder / "train" / "bright").iterdir())).convert("RGB")
    expected = AutoImageProcessor.from_pretrained(model)(images=image, return_tensors="pt")
    torch.testing.assert_close(first["pixel_values"], expected["pixel_values"][0])
    assert first["labels"] == 0


def test_the_digits_are_divided_into_distinct_parts(options):
    everything = {"max_train_samples": 9999, "max_eval_samples": 9999}
    first = _task({**options, **everything})
    other = _task({**options, **everything, "validation_split": "test"})
    sizes = [len(d) for d in (first.train_data, first.eval_data, other.eval_data)]
    assert sizes == [1198, 299, 300]
    seen = [
        {image.tobytes() for image in data.rows["image"]}
        for data in (first.train_data, first.eval_data, other.eval_data)
    ]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_classes_can_be_words(options, images, tmp_path):
    rows = datasets.Dataset.from_dict({"picture": images["image"], "kind": images["label"]})
    rows = rows.cast_column("picture", datasets.Image())
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "words" / f"{split}.parquet")
    columns = {"image_column": "picture", "label_column": "kind"}
    task = _task({**options, "dataset_name": tmp_path / "words", **columns})
    assert [task.train_data[i]["labels"] for i in range(4)] in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert task.train_data.rows.features["labels"].names == CLASSES


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_name": "./nowhere"}, "the folder ./nowhere does not exist"),
        ({"dataset_name": "nobody/nothing"}, "--dataset_name digits"),
        ({"validation_split": "dev"}, "the digits have no split ['dev']. They have ['train'"),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
        ({"config_overrides": "image_size=16"}, "makes images of height 8, and the model takes 16"),
        ({"ignore_mismatched_sizes": False}, "--ignore_mismatched_sizes to initialise them anew"),
        (
            {"model_name_or_path": "new:bert"},
            "there is no AutoModelForImageClassification of the type bert",
        ),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in refusal(run_image_classification, {**options, **wrong}, capsys)


def test_without_validation_images_some_are_held_out_of_each_class(options, folder, caplog):
    (folder / "validation").rename(folder.parent / "elsewhere")
    task = _task({**options, "dataset_name": folder, "validation_split_percentage": 25})
    assert (len(task.train_data), len(task.eval_data)) == (12, 4)
    assert sorted(task.eval_data.rows["labels"]) == [0, 0, 1, 1]
    assert task.split == "held-out 25 % of the training"
    assert "25 % of the training rows are held out" in caplog.text


def test_a_table_of_paths_of_images_is_classified(options, folder, tmp_path):
    files = sorted((folder / "train").rglob("*.png"))
    lines = [f"{path.relative_to(tmp_path)};{path.parent.name}" for path in files]
    (tmp_path / "pictures.csv").write_text("\n".join(["where;kind", *lines]))
    del options["dataset_name"]
    options |= {"train_file": tmp_path / "pictures.csv", "image_column": "where"}
    task = _task({**options, "label_column": "kind"})
    assert task.train_data[0]["pixel_values"].shape == (3, 8, 8)
    assert task.train_data.rows.features["labels"].names == CLASSES


def test_a_table_of_missing_images_is_refused(options, tmp_path, capsys):
    (tmp_path / "pictures.csv").write_text("image,label\nhere.png,a\nthere.png,b\n")
    del options["dataset_name"]
    options["train_file"] = tmp_path / "pictures.csv"
    message = refusal(
        run_image_classification, {**options, "validation_file": options["train_file"]}, capsys
    )
    assert f"2 of 2 images of the train split do not exist, such as {tmp_path}/here.png" in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_column": "picture"}, "has no column picture. It has image, label. Name the"),
        ({"label_column": "kind"}, "Name the column with --label_column"),
        ({"image_column": "label"}, "the column label must hold images or their paths"),
    ],
    ids=str,
)
def test_a_missing_column_is_refused(options, folder, wrong, message, capsys):
    options |= {"dataset_name": folder, **wrong}
    assert message in refusal(run_image_classification, options, capsys)


def test_a_model_without_an_image_processor_is_refused(options, tmp_path, capsys):
    LlamaConfig().save_pretrained(tmp_path / "llama")
    options["model_name_or_path"] = tmp_path / "llama"
    message = refusal(run_image_classification, options, capsys)
    assert "has no image processor (preprocessor_config.json)" in message


@pytest.mark.slow
def test_two_processes_measure_what_one_does(options):
    measured_the_same_by_two_processes("run_image_classification", options)
