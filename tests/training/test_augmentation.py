"""Variants of training texts: what they keep, what they change, and that they can be repeated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer
from hf_td.training.augmentation import (
    VariantDataset,
    VariantEpochs,
    Variation,
    Words,
    nearest_words,
    read_words,
)
from hf_td.training.augmentation.dataset import no_label
from tests.tiny import tiny_model
from tests.training.models import QUIET, assert_same_weights

CLS, SEP = 1, 2
# Tokens 0 to 2 are special, 3 to 40 whole words, 41 to 50 continue a word; the rest are signs.
TOKENS = [
    *("[PAD]", "[CLS]", "[SEP]"),
    *(f"w{i}" for i in range(3, 41)),
    *(f"##p{i}" for i in range(41, 51)),
    *(chr(0x2190 + i) for i in range(51, 64)),
]
ROW = [CLS, 5, 6, 41, 42, 7, 55, SEP, 8, 9, 10, SEP]


def tokenizer(tokens: list[str] = TOKENS) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = Tokenizer(models.WordPiece(vocabulary, unk_token="[PAD]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **special)


def table() -> torch.Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def near_of(words: Words) -> np.ndarray:
    return nearest_words(table(), words.whole, range(64))


def rows(count: int = 8) -> list[dict[str, Any]]:
    draws = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": [CLS, *torch.randint(3, 64, (6,), generator=draws).tolist(), SEP],
            "labels": i % 2,
        }
        for i in range(count)
    ]


def test_the_roles_of_tokens_are_read_from_their_marks():
    words = read_words(tokenizer())
    assert np.flatnonzero(words.special).tolist() == [0, 1, 2]
    assert np.flatnonzero(words.whole).tolist() == list(range(3, 41))
    assert np.flatnonzero(~words.begins).tolist() == list(range(41, 51))
    marked = read_words(tokenizer(["[PAD]", "[CLS]", "[SEP]", "Ġword", "Ġ.", "ing"]))
    assert marked.whole.tolist() == [False, False, False, True, False, False]
    assert marked.begins.tolist()[3:] == [True, True, False]


def test_neighbours_are_the_nearest_other_words_by_a_slow_loop():
    words = read_words(tokenizer())
    near = nearest_words(table(), words.whole, [5, 6, 41, 60], count=3)
    rows = torch.nn.functional.normalize(table(), dim=1)
    for token in (5, 6):
        others = sorted(range(3, 41), key=lambda i: -float(rows[i] @ rows[token]))
        assert near[token].tolist() == [i for i in others if i != token][:3]
    assert (near[[41, 60, 7]] == -1).all()  # no words, and a word that is not used
    few = np.zeros(64, dtype=bool)
    few[[5, 6]] = True
    assert nearest_words(table(), few, [5])[5].tolist() == [6]


@pytest.mark.parametrize("seed", range(20))
def test_a_variant_keeps_special_tokens_parts_and_whole_words(seed):
    words = read_words(tokenizer())
    draws = np.random.default_rng(seed)
    variation = Variation(replaced=0.5, deleted=0.5, cropped=0.5)
    changed, left = variation.draw(np.array(ROW), words, near_of(words), draws)
    kept = changed[left].tolist()
    assert (kept[0], kept[-1], kept.count(SEP)) == (CLS, SEP, 2)
    middle = kept.index(SEP)
    assert middle > 1
    assert len(kept) - middle > 2  # each part has a word
    assert len({bool(left[i]) for i in (2, 3, 4)}) == 1  # pieces of one word go together
    assert changed[[0, 2, 3, 4, 6, 7, 11]].tolist() == [CLS, 6, 41, 42, 55, SEP, SEP]


def test_words_are_replaced_by_their_neighbours_at_the_rate():
    words = read_words(tokenizer())
    near, tokens = near_of(words), np.array([CLS, *[5] * 10_000, SEP])
    changed, left = Variation(deleted=0, cropped=0).draw(
        tokens, words, near, np.random.default_rng(0)
    )
    assert left.all()
    moved = changed[changed != tokens]
    assert len(moved) == pytest.approx(4_000, rel=0.05)
    assert set(moved.tolist()) == set(near[5].tolist())
    _, left = Variation(cropped=0).draw(tokens, words, near, np.random.default_rng(0))
    assert left.mean() == pytest.approx(0.9, abs=0.02)


def test_a_crop_keeps_a_span_of_at_least_half():
    words = read_words(tokenizer())
    tokens, lengths = np.array([CLS, *range(3, 13), SEP]), set()
    for seed in range(100):
        draws = np.random.default_rng(seed)
        whole = Variation(replaced=0, deleted=0, cropped=1)
        _, left = whole.draw(tokens, words, near_of(words), draws)
        span = np.flatnonzero(left)[1:-1]
        assert span.tolist() == list(range(span[0], span[-1] + 1))
        lengths.add(len(span))
    assert lengths == {5, 6, 7, 8, 9, 10}


def test_a_variant_is_a_function_of_seed_epoch_and_row():
    data, same = (VariantDataset(rows(), 2, tokenizer(), table(), seed=3) for _ in range(2))
    other = VariantDataset(rows(), 2, tokenizer(), table(), seed=4)
    assert len(data) == 24
    assert [data[i] for i in range(8)] == rows()
    variants = [data[i] for i in range(8, 24)]
    assert variants == [same[i] for i in range(8, 24)]
    assert variants != [other[i] for i in range(8, 24)]
    assert variants[:8] != variants[8:]
    data.epoch = 1
    assert variants != [data[i] for i in range(8, 24)]
    assert {row["labels"] for row in variants} == {-100}
    with pytest.raises(IndexError, match="24 is not below 24"):
        _ = data[24]


def test_the_columns_of_a_row_stay_together():
    types = [0] * 8 + [1] * 4
    row = {"input_ids": ROW, "token_type_ids": types, "labels": 0.5}
    data = VariantDataset([row], 8, tokenizer(), table())
    for i in range(1, 9):
        ids, found = data[i]["input_ids"], data[i]["token_type_ids"]
        assert found == [0] * (ids.index(SEP) + 1) + [1] * (len(ids) - ids.index(SEP) - 1)
        assert np.isnan(data[i]["labels"])


def test_loaders_with_workers_see_the_epoch():
    data = VariantDataset(rows(), 1, tokenizer(), table())
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=1, persistent_workers=True
    )
    for epoch in (0, 1):
        data.epoch = epoch
        assert list(loader) == [data[i] for i in range(16)]


def test_no_variants_are_refused():
    with pytest.raises(ValueError, match="variants is at least 1, got 0"):
        VariantDataset(rows(), 0, tokenizer(), table())


def train(folder: Path, resume: str | None, **settings: Any) -> TargetedDropoutTrainer:
    model = tiny_model("bert")
    data = VariantDataset(
        rows(), 1, tokenizer(), model.get_input_embeddings().get_parameter("weight")
    )
    arguments = TargetedDropoutArguments(str(folder), **{**QUIET, "targeting": 0.5, **settings})
    trainer = TargetedDropoutTrainer(
        model,
        arguments,
        train_dataset=data,
        processing_class=tokenizer(),
        callbacks=[VariantEpochs(data)],
    )
    seen = []
    trainer.add_callback(seeing(data, seen))
    trainer.train(resume_from_checkpoint=resume)
    trainer.__dict__["seen"] = seen
    assert data.epoch == 0
    return trainer


def seeing(data: VariantDataset, seen: list[int]) -> Any:
    class Seeing(VariantEpochs):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            seen.append(self.data.epoch)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            pass

    return Seeing(data)


@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("order", ["random", "group_by_length"])
def test_a_run_resumes_bit_identical_at_and_inside_an_epoch(order, step, tmp_path):
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(str(tmp_path / "teacher"))
    settings = {
        "teacher": str(tmp_path / "teacher"),
        "max_steps": 9,
        "save_strategy": "steps",
        "save_steps": step,
        "train_sampling_strategy": order,
    }
    whole = train(tmp_path / "whole", None, **settings)
    assert whole.__dict__["seen"] == [0, 1, 2]
    later = train(tmp_path / "later", f"{tmp_path}/whole/checkpoint-{step}", **settings)
    assert later.__dict__["seen"] == [1, 2]
    assert_same_weights(whole.model, later.model)


@pytest.mark.parametrize("name", ["labels", "label", "label_ids"])
def test_a_variant_has_no_label_in_any_column_that_collators_take(name):
    renamed = [{"input_ids": row["input_ids"], name: 1} for row in rows(2)]
    data = VariantDataset(renamed, 1, tokenizer(), table())
    assert [data[i][name] for i in range(4)] == [1, 1, -100, -100]


@pytest.mark.parametrize("kind", [float, np.float32, np.array, torch.tensor, torch.Tensor.bfloat16])
def test_a_variant_has_no_score_in_any_format(kind):
    label = kind(torch.tensor(3.5)) if kind is torch.Tensor.bfloat16 else kind(3.5)
    data = VariantDataset([{**rows(1)[0], "labels": label}], 1, tokenizer(), table())
    assert math.isnan(data[1]["labels"])
    assert no_label(torch.tensor(3)) == no_label(np.int64(3)) == no_label(3) == -100
