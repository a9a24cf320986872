"""A real Llama without some heads and neurons writes the same text masked and compact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_td import compact_model, prune_model

BEGINNINGS = ["Once upon a time", "Lily and Tom went to the park", "The big red dog"]


@pytest.mark.parametrize("budget", ["uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_a_compact_model_writes_what_the_masked_one_does(stories_folder, sparsity, budget):
    masked = AutoModelForCausalLM.from_pretrained(stories_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(stories_folder)
    prune_model(masked, sparsity, level="unit", budget=budget)
    compact = compact_model(copy.deepcopy(masked))
    heads = [layer.self_attn.k_proj.out_features // 8 for layer in compact.model.layers]
    neurons = [layer.mlp.up_proj.out_features for layer in compact.model.layers]
    assert min(heads) < 4  # of as many heads of keys and values, with two of queries each
    assert min(neurons) < 172
    texts = [_write(model, tokenizer) for model in (masked, compact)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == len(BEGINNINGS)


def _write(model, tokenizer) -> list[str]:
    texts = []
    for beginning in BEGINNINGS:
        inputs = tokenizer(beginning, return_tensors="pt", return_token_type_ids=False)
        tokens = model.generate(**inputs, max_new_tokens=60, do_sample=False, pad_token_id=2)
        assert tokens.shape == (1, inputs.input_ids.shape[1] + 60)
        texts.append(tokenizer.decode(tokens[0]))
    return texts


def test_the_whole_model_writes_a_story(stories_folder):
    model: Any = AutoModelForCausalLM.from_pretrained(stories_folder)
    tokens = model.generate(torch.tensor([[1]]), max_new_tokens=20, do_sample=False, pad_token_id=2)
    text = AutoTokenizer.from_pretrained(stories_folder).decode(tokens[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
