"""Loading from local folders, and messages about wrong folders."""

import datasets
import pytest

from hf_td.tasks.glue.benchmark import GLUE_TASKS, get_glue_task
from hf_td.tasks.glue.checks import check_columns
from hf_td.tasks.glue.loading import label_names, load_glue
from tests.tasks.glue.files import WRITERS, rows_of, write, write_task

REAL = ["cola", "mrpc", "sst2", "stsb", "wnli"]


# Real data


@pytest.mark.parametrize("name", REAL)
def test_real_tasks(glue_folder, name):
    data = load_glue(name, str(glue_folder))
    task = get_glue_task(name)
    assert set(data) == {"train", "validation"}
    for split in data.values():
        assert {*task.sentences, "label"} <= set(split.column_names)
    names = label_names(data)
    assert (names is None) if task.is_regression else (len(names or []) == task.num_labels)


def test_task_that_is_not_in_the_real_folder(glue_folder):
    with pytest.raises(FileNotFoundError, match=r"no task 'qnli'.*found: cola, mrpc, sst2, stsb"):
        load_glue("qnli", str(glue_folder))


# Local folders


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["mnli", "stsb", "sst2"])
def test_files_directly_in_a_folder(tmp_path, name, kind):
    task = get_glue_task(name)
    data = load_glue(task, write_task(tmp_path, task, kind))
    assert tuple(data) == ("train", *task.validation_splits)
    assert data["train"]["label"][:] == rows_of(task)["label"]


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_files_in_a_folder_named_like_the_task(tmp_path, name):
    task = get_glue_task(name)
    write_task(tmp_path / name, task)
    data = load_glue(task, str(tmp_path))
    assert data["train"][task.sentences[0]][:] == rows_of(task)[task.sentences[0]]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("place", ["", "cola"])
def test_a_split_may_lie_in_parts_as_on_the_hub(tmp_path, kind, place):
    task = get_glue_task("cola")
    for part, count in enumerate((2, 3)):
        write(tmp_path / place, f"train-0000{part}-of-00002", rows_of(task, count), kind)
    write(tmp_path / place, "validation-00000-of-00001-0a1b2c", rows_of(task), kind)
    data = load_glue(task, str(tmp_path))
    assert data["train"]["label"][:] == [0, 1, 0, 1, 0]
    assert len(data["validation"]) == 6


def test_each_split_may_have_its_own_format(tmp_path):
    task = get_glue_task("rte")
    write(tmp_path, "train", rows_of(task), "csv")
    write(tmp_path, "validation", rows_of(task), "parquet")
    assert len(load_glue(task, str(tmp_path))["validation"]) == 6


def test_text_that_looks_missing_stays_text(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path, split, {"sentence": ["None", "NA", "nan"], "label": [0, 1, 0]})
    assert load_glue("sst2", str(tmp_path))["train"]["sentence"][:] == ["None", "NA", "nan"]


def test_whole_scores_become_floats(tmp_path):
    columns = {**rows_of(get_glue_task("stsb"), 2), "label": [1, 5]}
    for split in ("train", "validation"):
        write(tmp_path, split, columns)
    data = load_glue("stsb", str(tmp_path))
    assert data["train"].features["label"].dtype == "float32"


# Errors


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/no-such-folder-here"])
def test_folder_does_not_exist(name):
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist\. Give an existing"):
        load_glue("cola", name)


def test_a_file_is_not_a_folder(tmp_path):
    write(tmp_path, "train", rows_of(get_glue_task("cola")))
    with pytest.raises(NotADirectoryError, match=r"train\.csv is a file\. Give the folder"):
        load_glue("cola", str(tmp_path / "train.csv"))


def test_folder_without_the_task_lists_its_tasks(tmp_path):
    write_task(tmp_path / "rte", get_glue_task("rte"))
    write_task(tmp_path / "cola", get_glue_task("cola"))
    with pytest.raises(FileNotFoundError, match=r"no task 'mrpc'.*Tasks found: cola, rte\."):
        load_glue("mrpc", str(tmp_path))


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="Tasks found: none"):
        load_glue("mrpc", str(tmp_path))


def test_missing_split_file(tmp_path):
    write(tmp_path, "train", rows_of(get_glue_task("mnli")))
    write(tmp_path, "validation_matched", rows_of(get_glue_task("mnli")))
    message = r"'validation_mismatched'.*It has 0\. Found: train\.csv, validation_matched\.csv"
    with pytest.raises(ValueError, match=message):
        load_glue("mnli", str(tmp_path))


def test_two_files_for_a_split(tmp_path):
    write_task(tmp_path, get_glue_task("cola"), "csv")
    write_task(tmp_path, get_glue_task("cola"), "jsonl")
    with pytest.raises(ValueError, match=r"It has 2\. Found: train\.csv, train\.jsonl"):
        load_glue("cola", str(tmp_path))


@pytest.mark.parametrize("others", [["train-00000-of-00002"], ["train-00000-of-00001", "train"]])
def test_parts_that_are_not_all_there_or_not_alone(tmp_path, others):
    for name in (*others, "validation"):
        write(tmp_path, name, rows_of(get_glue_task("cola")))
    message = rf"or all its parts .*It has {len(others)}\. Found: {others[0]}\.csv"
    with pytest.raises(ValueError, match=message):
        load_glue("cola", str(tmp_path))


def test_missing_split_of_a_configuration(tmp_path):
    write(tmp_path / "data", "train", rows_of(get_glue_task("cola")))
    card = "configs:\n- config_name: cola\n  data_files: [{split: train, path: data/train.csv}]\n"
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    with pytest.raises(ValueError, match=r"lacks the split validation .*Splits found: train\."):
        load_glue("cola", str(tmp_path))


@pytest.mark.parametrize("missing", ["sentence2", "label"])
def test_missing_column(tmp_path, missing):
    columns = {
        name: rows for name, rows in rows_of(get_glue_task("rte")).items() if name != missing
    }
    for split in ("train", "validation"):
        write(tmp_path, split, columns)
    found = ", ".join(columns)
    with pytest.raises(ValueError, match=f"lacks the column {missing} .*Columns found: {found}"):
        load_glue("rte", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("cola", [0, -1], r"whole numbers 0\.\.1\. Found -1\. GLUE hides test labels as -1"),
        ("mnli", [0, 3], r"whole numbers 0\.\.2\. Found 3\."),
        ("cola", ["no", "yes"], r"whole numbers 0\.\.1\. The column 'label' holds (large_)?string"),
        ("cola", [0.0, 0.5], r"whole numbers 0\.\.1\. The column 'label' holds double"),
        ("cola", [0, None], r"whole numbers 0\.\.1\. Found None\."),
        ("stsb", [0.0, -1.0], r"scores of at least 0\. Found -1\.0\. GLUE hides"),
        ("stsb", [0.0, None], r"scores of at least 0\. Found None\."),
        ("stsb", ["a", "b"], r"scores of at least 0\. The column 'label' holds"),
        (
            "cola",
            list(range(-20, 0)),
            r"whole numbers 0\.\.1\. Found -1, -10, .*, \.\.\.\. GLUE hides",
        ),
    ],
)
def test_labels_out_of_range(tmp_path, name, labels, message):
    columns = {**rows_of(get_glue_task(name), len(labels)), "label": labels}
    for split in get_glue_task(name).validation_splits:
        write(tmp_path, split, rows_of(get_glue_task(name)), "parquet")
    write(tmp_path, "train", columns, "parquet")
    with pytest.raises(ValueError, match=f"split train: labels of task '{name}' must be {message}"):
        load_glue(name, str(tmp_path))


@pytest.mark.parametrize(
    ("texts", "message"),
    [([1, 2], "'sentence' must hold text. It holds int64"), (["a", None], "1 rows have no text")],
)
def test_texts_must_be_text(tmp_path, texts, message):
    for split in ("train", "validation"):
        write(tmp_path, split, {"sentence": texts, "label": [0, 1]}, "parquet")
    with pytest.raises(ValueError, match=message):
        load_glue("cola", str(tmp_path))


@pytest.mark.parametrize("text", ["sentence,label\n", "", 'sentence,label\n"a,0,1\nb,c,d,e'])
def test_file_without_rows_or_sense(tmp_path, text):
    write(tmp_path, "train", rows_of(get_glue_task("cola")))
    (tmp_path / "validation.csv").write_text(text)
    with pytest.raises(ValueError, match=r"validation\.csv cannot be read: .* not valid csv"):
        load_glue("cola", str(tmp_path))


@pytest.mark.parametrize("card", [True, False])
def test_a_first_row_that_is_longer_than_the_header(tmp_path, card):
    write_task(tmp_path, get_glue_task("sst2"))
    (tmp_path / "train.csv").write_text("sentence,label\na fine, good film,1\ndull, long,0\n")
    if card:
        files = "{split: train, path: train.csv}, {split: validation, path: validation.csv}"
        configs = f"configs:\n- config_name: sst2\n  data_files: [{files}]\n"
        (tmp_path / "README.md").write_text(f"---\n{configs}---\n")
    message = "split train cannot be read: the first row has 1 more field than the header"
    with pytest.raises(ValueError, match=message):
        load_glue("sst2", str(tmp_path))


def test_split_without_rows():
    task = get_glue_task("cola")
    empty = datasets.Dataset.from_dict({"sentence": [], "label": []})
    with pytest.raises(ValueError, match=r"here has no rows\. Task 'cola' needs at least one"):
        check_columns(empty, task, "here")
