import json
import os
import subprocess
import sys
import time

import datasets
import pytest
from datasets import config
from datasets.arrow_writer import ArrowWriter
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from hf_td.glue import TASKS, get_task, hub, label_names, load_task, tokenize
from hf_td.glue.checks import check_columns
from hf_td.glue.fragments import whole_texts

REAL = ["cola", "mrpc", "sst2", "stsb", "wnli"]
WRITERS = {
    "csv": datasets.Dataset.to_csv,
    "jsonl": datasets.Dataset.to_json,
    "parquet": datasets.Dataset.to_parquet,
}


def rows_of(task, count=6):
    """A few rows that fit a task."""
    columns: dict[str, list] = {
        column: [f"{column} number {i}" for i in range(count)] for column in task.sentences
    }
    if task.is_regression:
        return {**columns, "label": [float(i % 6) for i in range(count)]}
    return {**columns, "label": [i % task.num_labels for i in range(count)]}


def write(folder, name, columns, kind="csv"):
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](datasets.Dataset.from_dict(columns), folder / f"{name}.{kind}")


def write_task(folder, task, kind="csv"):
    for split in ("train", *task.validation_splits):
        write(folder, split, rows_of(task), kind)
    return str(folder)


@pytest.fixture
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "number", "sentence1", "sentence2"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]")


# Real data


@pytest.mark.parametrize("name", REAL)
def test_real_tasks(glue_folder, name):
    data = load_task(name, str(glue_folder))
    task = get_task(name)
    assert set(data) == {"train", "validation"}
    for split in data.values():
        assert {*task.sentences, "label"} <= set(split.column_names)
    names = label_names(data)
    assert (names is None) if task.is_regression else (len(names or []) == task.num_labels)


def test_task_that_is_not_in_the_real_folder(glue_folder):
    with pytest.raises(FileNotFoundError, match=r"no task 'qnli'.*found: cola, mrpc, sst2, stsb"):
        load_task("qnli", str(glue_folder))


# Local folders


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["mnli", "stsb", "sst2"])
def test_files_directly_in_a_folder(tmp_path, name, kind):
    task = get_task(name)
    data = load_task(task, write_task(tmp_path, task, kind))
    assert tuple(data) == ("train", *task.validation_splits)
    assert data["train"]["label"][:] == rows_of(task)["label"]


@pytest.mark.parametrize("name", TASKS)
def test_files_in_a_folder_named_like_the_task(tmp_path, name):
    task = get_task(name)
    write_task(tmp_path / name, task)
    data = load_task(task, str(tmp_path))
    assert data["train"][task.sentences[0]][:] == rows_of(task)[task.sentences[0]]


def test_each_split_may_have_its_own_format(tmp_path):
    task = get_task("rte")
    write(tmp_path, "train", rows_of(task), "csv")
    write(tmp_path, "validation", rows_of(task), "parquet")
    assert len(load_task(task, str(tmp_path))["validation"]) == 6


def test_text_that_looks_missing_stays_text(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path, split, {"sentence": ["None", "NA", "nan"], "label": [0, 1, 0]})
    assert load_task("sst2", str(tmp_path))["train"]["sentence"][:] == ["None", "NA", "nan"]


def test_whole_scores_become_floats(tmp_path):
    columns = {**rows_of(get_task("stsb"), 2), "label": [1, 5]}
    for split in ("train", "validation"):
        write(tmp_path, split, columns)
    data = load_task("stsb", str(tmp_path))
    assert data["train"].features["label"].dtype == "float32"


# Subsets


def test_train_subset_is_random_and_seeded():
    load = lambda seed: load_task("acceptability", max_train_samples=50, seed=seed)["train"]  # noqa: E731
    whole = load_task("acceptability")["train"]["sentence"]
    first, again, other = load(1), load(1), load(2)
    assert first["sentence"][:] == again["sentence"][:] != other["sentence"][:]
    assert len(first) == 50
    assert set(first["sentence"]) <= set(whole)
    assert first["sentence"][:] != whole[:50]


def test_eval_subset_is_the_first_rows():
    whole = load_task("acceptability")["validation"]["sentence"][:]
    part = load_task("acceptability", max_eval_samples=20, seed=9)["validation"]["sentence"][:]
    assert part == whole[:20]


def test_subset_larger_than_the_data(tmp_path):
    folder = write_task(tmp_path, get_task("cola"))
    data = load_task("cola", folder, max_train_samples=99, max_eval_samples=99)
    assert len(data["train"]) == len(data["validation"]) == 6


@pytest.mark.parametrize("name", ["max_train_samples", "max_eval_samples"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, or None.* got 0"):
        load_task("acceptability", **{name: 0})  # pyright: ignore[reportArgumentType]


# The built-in task


def test_builtin_is_the_default_of_its_task():
    assert (
        load_task("acceptability")["train"][:] == load_task("acceptability", "builtin")["train"][:]
    )


def test_builtin_is_not_another_task():
    with pytest.raises(ValueError, match="are for the task 'acceptability', not 'cola'"):
        load_task("cola", "builtin")


# Errors


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/no-such-folder-here"])
def test_folder_does_not_exist(name):
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist\. Give an existing"):
        load_task("cola", name)


def test_a_file_is_not_a_folder(tmp_path):
    write(tmp_path, "train", rows_of(get_task("cola")))
    with pytest.raises(FileNotFoundError, match=r"train\.csv does not exist"):
        load_task("cola", str(tmp_path / "train.csv"))


def test_folder_without_the_task_lists_its_tasks(tmp_path):
    write_task(tmp_path / "rte", get_task("rte"))
    write_task(tmp_path / "cola", get_task("cola"))
    with pytest.raises(FileNotFoundError, match=r"no task 'mrpc'.*Tasks found: cola, rte\."):
        load_task("mrpc", str(tmp_path))


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="Tasks found: none"):
        load_task("mrpc", str(tmp_path))


def test_missing_split_file(tmp_path):
    write(tmp_path, "train", rows_of(get_task("mnli")))
    write(tmp_path, "validation_matched", rows_of(get_task("mnli")))
    message = r"'validation_mismatched'.*it has 0\. Found: train\.csv, validation_matched\.csv"
    with pytest.raises(ValueError, match=message):
        load_task("mnli", str(tmp_path))


def test_two_files_for_a_split(tmp_path):
    write_task(tmp_path, get_task("cola"), "csv")
    write_task(tmp_path, get_task("cola"), "jsonl")
    with pytest.raises(ValueError, match=r"it has 2\. Found: train\.csv, train\.jsonl"):
        load_task("cola", str(tmp_path))


def test_missing_split_of_a_configuration(tmp_path):
    write(tmp_path / "data", "train", rows_of(get_task("cola")))
    card = "configs:\n- config_name: cola\n  data_files: [{split: train, path: data/train.csv}]\n"
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    with pytest.raises(ValueError, match=r"lacks the split validation .*Splits found: train\."):
        load_task("cola", str(tmp_path))


@pytest.mark.parametrize("missing", ["sentence2", "label"])
def test_missing_column(tmp_path, missing):
    columns = {name: rows for name, rows in rows_of(get_task("rte")).items() if name != missing}
    for split in ("train", "validation"):
        write(tmp_path, split, columns)
    found = ", ".join(columns)
    with pytest.raises(ValueError, match=f"lacks the column {missing} .*Columns found: {found}"):
        load_task("rte", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("cola", [0, -1], r"whole numbers 0\.\.1; found -1\. GLUE hides test labels as -1"),
        ("mnli", [0, 3], r"whole numbers 0\.\.2; found 3\."),
        ("cola", ["no", "yes"], r"whole numbers 0\.\.1; the column 'label' holds (large_)?string"),
        ("cola", [0.0, 0.5], r"whole numbers 0\.\.1; the column 'label' holds double"),
        ("cola", [0, None], r"whole numbers 0\.\.1; found None\."),
        ("stsb", [0.0, -1.0], r"scores of at least 0; found -1\.0\. GLUE hides"),
        ("stsb", [0.0, None], r"scores of at least 0; found None\."),
        ("stsb", ["a", "b"], r"scores of at least 0; the column 'label' holds"),
        (
            "cola",
            list(range(-20, 0)),
            r"whole numbers 0\.\.1; found -1, -10, .*, \.\.\.\. GLUE hides",
        ),
    ],
)
def test_labels_out_of_range(tmp_path, name, labels, message):
    columns = {**rows_of(get_task(name), len(labels)), "label": labels}
    for split in get_task(name).validation_splits:
        write(tmp_path, split, rows_of(get_task(name)), "parquet")
    write(tmp_path, "train", columns, "parquet")
    with pytest.raises(ValueError, match=f"split train: labels of task '{name}' must be {message}"):
        load_task(name, str(tmp_path))


@pytest.mark.parametrize(
    ("texts", "message"),
    [([1, 2], "'sentence' must hold text; it holds int64"), (["a", None], "1 rows have no text")],
)
def test_texts_must_be_text(tmp_path, texts, message):
    for split in ("train", "validation"):
        write(tmp_path, split, {"sentence": texts, "label": [0, 1]}, "parquet")
    with pytest.raises(ValueError, match=message):
        load_task("cola", str(tmp_path))


@pytest.mark.parametrize("text", ["sentence,label\n", "", 'sentence,label\n"a,0,1\nb,c,d,e'])
def test_file_without_rows_or_sense(tmp_path, text):
    write(tmp_path, "train", rows_of(get_task("cola")))
    (tmp_path / "validation.csv").write_text(text)
    with pytest.raises(ValueError, match=r"validation\.csv cannot be read: .* not valid csv"):
        load_task("cola", str(tmp_path))


def test_split_without_rows():
    task = get_task("cola")
    empty = datasets.Dataset.from_dict({"sentence": [], "label": []})
    with pytest.raises(ValueError, match="here has no rows; task 'cola' needs at least one"):
        check_columns(empty, task, "here")


# The Hub


def run(program, tmp_path, *arguments, **environment):
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "HF_HOME": str(tmp_path), **environment}
    return subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)


FAILS_AT_ONCE = """
import json, time
from hf_td.glue import load_task
start = time.monotonic()
try:
    load_task("rte")
except ConnectionError as error:
    print(json.dumps([time.monotonic() - start, str(error)]))
"""


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "127.0.0.1:9 cannot be"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ],
    ids=["closed port", "offline mode"],
)
def test_no_network_fails_at_once(tmp_path, environment, reason):
    seconds, message = json.loads(run(FAILS_AT_ONCE, tmp_path, **environment).stdout)
    assert seconds < 5
    assert reason in message
    assert "--dataset_name <local folder>" in message
    assert "acceptability" in message


CACHES = """
from hf_td.glue import load_task
data = load_task("rte", "some/glue")
assert data["train"]["label"][:] == [0, 1]
"""


def test_cached_data_load_without_network(tmp_path):
    cache = tmp_path / "datasets" / "some___glue" / "rte" / "0.0.0" / "abc"
    cache.mkdir(parents=True)
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    split = datasets.Dataset.from_dict(columns)
    names = {"train": "glue-train.arrow", "validation": "glue-validation.arrow"}
    for name in names.values():
        with ArrowWriter(path=str(cache / name), features=split.features) as w:
            w.write_table(split.data.table)
            w.finalize()
    infos = {name: {"name": name, "num_examples": 2, "dataset_name": "glue"} for name in names}
    info = {"features": split.features.to_dict(), "splits": infos, "config_name": "rte"}
    (cache / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "glue"}))
    start = time.monotonic()
    run(CACHES, tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert time.monotonic() - start < 20


def test_a_slow_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda url, seconds: time.sleep(2) or True)
    start = time.monotonic()
    assert not hub.is_reachable("http://example.invalid", seconds=0.2)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (FileNotFoundError("x"), FileNotFoundError, "neither a local folder nor a data set"),
        (ConnectionError("x"), ConnectionError, "the connection broke"),
        (ValueError("BuilderConfig 'cola' not found"), ValueError, "BuilderConfig 'cola'"),
    ],
)
def test_errors_of_the_hub(monkeypatch, raised, expected, message):
    def fail(*_):
        raise raised

    monkeypatch.setattr(hub, "is_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    with pytest.raises(expected, match=message):
        load_task("cola", "some/data")


# Tokenising


def test_tokenize_keeps_ids_and_labels_only(tmp_path, tokenizer):
    task = get_task("mrpc")
    data = load_task(task, write_task(tmp_path, task))
    encoded = tokenize(data, task, tokenizer)
    assert set(encoded) == {"train", "validation"}
    assert "labels" in encoded["train"].column_names
    assert not {"sentence1", "sentence2", "label"} & set(encoded["train"].column_names)
    assert encoded["train"]["labels"][:] == data["train"]["label"][:]
    both = tokenizer("sentence1 number 0", "sentence2 number 0")["input_ids"]
    assert encoded["train"]["input_ids"][0] == both


def test_tokenize_truncates_and_does_not_pad(tokenizer):
    columns = {"sentence": ["the " * 50, "the"], "label": [0, 1], "idx": [0, 1]}
    encoded = tokenize(datasets.Dataset.from_dict(columns), "cola", tokenizer, max_length=16)
    assert [len(ids) for ids in encoded["input_ids"]] == [16, 3]
    batch = DataCollatorWithPadding(tokenizer)([encoded[0], encoded[1]])
    assert batch["input_ids"].shape == (2, 16)
    assert batch["labels"].tolist() == [0, 1]


def test_label_names():
    data = load_task("acceptability")
    assert label_names(data) == label_names(data["train"]) == ["unacceptable", "acceptable"]
    plain = datasets.Dataset.from_dict({"sentence": ["a"], "label": [0]})
    assert label_names(plain) is None


def test_label_names_outlive_tokenising(tokenizer):
    data = load_task("acceptability", max_train_samples=4, max_eval_samples=4)
    encoded = tokenize(data, "acceptability", tokenizer)
    assert label_names(encoded) == ["unacceptable", "acceptable"]


def test_fragments_can_be_left_out_of_the_training_rows(tmp_path):
    sentences = ["a fine film", "this is a fine film", "dull", "this is a  fine film", "so dull"]
    for split, rows in {"train": sentences, "validation": sentences[:2]}.items():
        table = datasets.Dataset.from_dict({"sentence": rows, "label": [0] * len(rows)})
        table.to_parquet(tmp_path / "sst2" / f"{split}.parquet")
    found = load_task("sst2", str(tmp_path), drop_fragments=True)
    assert list(found["train"]["sentence"]) == ["this is a fine film", "so dull"]
    assert list(found["validation"]["sentence"]) == sentences[:2]
    assert len(load_task("sst2", str(tmp_path))["train"]) == len(sentences)


def test_a_pair_is_a_fragment_only_of_a_pair(tmp_path):
    first, second = ["a b", "a b c", "x a"], ["c d", "c d e", "c d"]
    for split in ("train", "validation"):
        columns = {"sentence1": first, "sentence2": second, "label": [0, 1, 0]}
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "mrpc" / f"{split}.parquet")
    found = load_task("mrpc", str(tmp_path), drop_fragments=True)
    assert list(found["train"]["sentence1"]) == first


@given(st.lists(st.text("ab ", max_size=8), max_size=12))
def test_whole_texts_are_those_that_no_other_holds(texts):
    padded = [f" {' '.join(text.split())} " for text in texts]

    def is_fragment(i):
        return any(
            padded[i] in padded[j] and (padded[i] != padded[j] or j < i)
            for j in range(len(texts))
            if j != i
        )

    assert whole_texts(texts) == [i for i in range(len(texts)) if not is_fragment(i)]


def test_rows_held_out_are_evaluated_and_not_trained_on(tmp_path):
    write_task(tmp_path, get_task("mnli"))
    rows = set(load_task("mnli", str(tmp_path))["train"]["premise"])
    found = load_task("mnli", str(tmp_path), held_out=2)
    held, rest = set(found["validation_matched"]["premise"]), set(found["train"]["premise"])
    assert len(held) == 2
    assert held == set(found["validation_mismatched"]["premise"])
    assert not held & rest
    assert held | rest == rows
    again = load_task("mnli", str(tmp_path), held_out=2)
    assert set(again["validation_matched"]["premise"]) == held


def test_some_rows_stay_to_train_on(tmp_path):
    write_task(tmp_path, get_task("cola"))
    with pytest.raises(ValueError, match="cannot hold 6 rows out of 6"):
        load_task("cola", str(tmp_path), held_out=6)
