"""Selection of training and evaluation rows, and their tokens."""

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from hf_td.tasks.glue.benchmark import get_glue_task
from hf_td.tasks.glue.fragments import whole_texts
from hf_td.tasks.glue.loading import label_names, load_glue, tokenize
from tests.tasks.glue.files import write_task


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


# Subsets


def test_train_subset_is_random_and_seeded():
    load = lambda seed: load_glue("acceptability", max_train_samples=50, seed=seed)["train"]  # noqa: E731
    whole = load_glue("acceptability")["train"]["sentence"]
    first, again, other = load(1), load(1), load(2)
    assert first["sentence"][:] == again["sentence"][:] != other["sentence"][:]
    assert len(first) == 50
    assert set(first["sentence"]) <= set(whole)
    assert first["sentence"][:] != whole[:50]


def test_eval_subset_is_the_first_rows():
    whole = load_glue("acceptability")["validation"]["sentence"][:]
    part = load_glue("acceptability", max_eval_samples=20, seed=9)["validation"]["sentence"][:]
    assert part == whole[:20]


def test_subset_larger_than_the_data(tmp_path):
    folder = write_task(tmp_path, get_glue_task("cola"))
    data = load_glue("cola", folder, max_train_samples=99, max_eval_samples=99)
    assert len(data["train"]) == len(data["validation"]) == 6


@pytest.mark.parametrize("name", ["max_train_samples", "max_eval_samples"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, or None.* Got 0"):
        load_glue("acceptability", **{name: 0})  # pyright: ignore[reportArgumentType]


# The built-in task


def test_builtin_is_the_default_of_its_task():
    assert (
        load_glue("acceptability")["train"][:] == load_glue("acceptability", "builtin")["train"][:]
    )


def test_builtin_is_not_another_task():
    with pytest.raises(ValueError, match="are for the task 'acceptability', not 'cola'"):
        load_glue("cola", "builtin")


# Tokenising


def test_tokenize_keeps_ids_and_labels_only(tmp_path, tokenizer):
    task = get_glue_task("mrpc")
    data = load_glue(task, write_task(tmp_path, task))
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
    data = load_glue("acceptability")
    assert label_names(data) == label_names(data["train"]) == ["unacceptable", "acceptable"]
    plain = datasets.Dataset.from_dict({"sentence": ["a"], "label": [0]})
    assert label_names(plain) is None


def test_label_names_outlive_tokenising(tokenizer):
    data = load_glue("acceptability", max_train_samples=4, max_eval_samples=4)
    encoded = tokenize(data, "acceptability", tokenizer)
    assert label_names(encoded) == ["unacceptable", "acceptable"]


def test_fragments_can_be_left_out_of_the_training_rows(tmp_path):
    sentences = ["a fine film", "this is a fine film", "dull", "this is a  fine film", "so dull"]
    for split, rows in {"train": sentences, "validation": sentences[:2]}.items():
        table = datasets.Dataset.from_dict({"sentence": rows, "label": [0] * len(rows)})
        table.to_parquet(tmp_path / "sst2" / f"{split}.parquet")
    found = load_glue("sst2", str(tmp_path), drop_fragments=True)
    assert list(found["train"]["sentence"]) == ["this is a fine film", "so dull"]
    assert list(found["validation"]["sentence"]) == sentences[:2]
    assert len(load_glue("sst2", str(tmp_path))["train"]) == len(sentences)


def test_a_pair_is_a_fragment_only_of_a_pair(tmp_path):
    first, second = ["a b", "a b c", "x a"], ["c d", "c d e", "c d"]
    for split in ("train", "validation"):
        columns = {"sentence1": first, "sentence2": second, "label": [0, 1, 0]}
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "mrpc" / f"{split}.parquet")
    found = load_glue("mrpc", str(tmp_path), drop_fragments=True)
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
    write_task(tmp_path, get_glue_task("mnli"))
    rows = set(load_glue("mnli", str(tmp_path))["train"]["premise"])
    found = load_glue("mnli", str(tmp_path), held_out=2)
    held, rest = set(found["validation_matched"]["premise"]), set(found["train"]["premise"])
    assert len(held) == 2
    assert held == set(found["validation_mismatched"]["premise"])
    assert not held & rest
    assert held | rest == rows
    again = load_glue("mnli", str(tmp_path), held_out=2)
    assert set(again["validation_matched"]["premise"]) == held


def test_some_rows_stay_to_train_on(tmp_path):
    write_task(tmp_path, get_glue_task("cola"))
    with pytest.raises(ValueError, match="cannot hold 6 rows out of 6"):
        load_glue("cola", str(tmp_path), held_out=6)
