"""A tokenizer that transformers makes from nothing has no words."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from hf_td.training.distillation.teacher import _check_tokens
from hf_td.training.vocabulary import knows_words
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("make", [tiny_tokenizer, ByT5Tokenizer])
def test_words_and_bytes_are_a_vocabulary(make):
    assert knows_words(make())


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2", "t5"])
def test_a_model_that_was_saved_alone_has_no_vocabulary(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    assert not knows_words(AutoTokenizer.from_pretrained(tmp_path))


def test_a_teacher_that_was_saved_alone_has_no_other_vocabulary(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    _check_tokens(str(tmp_path), tiny_tokenizer())
    tiny_tokenizer().save_pretrained(tmp_path)
    _check_tokens(str(tmp_path), tiny_tokenizer())
    other = tiny_tokenizer()
    other.add_tokens(["another"])
    with pytest.raises(ValueError, match="their vocabularies differ"):
        _check_tokens(str(tmp_path), other)
