"""Compact language models write what the masked ones write: cached, in batches, with beams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_td import anneal, compact_model, patch_model, prune_model, unpatch_model
from hf_td.hub import export_model
from tests.tiny import SIZES

WAYS: dict[str, dict[str, Any]] = {
    "cache": {},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
}


def llama() -> Any:
    """Return a tiny random Llama with grouped queries, whose text is not uniform noise."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, **SIZES, num_key_value_heads=2, initializer_range=0.5, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def pruned(model: Any) -> Any:
    prune_model(model, 0.5, level="unit", importance="magnitude")
    return model


def batch() -> dict[str, torch.Tensor]:
    """Return two rows, the shorter one padded on the left."""
    rows = torch.tensor([[0, 0, 5, 9, 13], [3, 4, 7, 11, 2]])
    return {"input_ids": rows, "attention_mask": (rows != 0).long()}


def write(model: Any, **settings: Any) -> torch.Tensor:
    return model.generate(**batch(), max_new_tokens=12, do_sample=False, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_compact_model_writes_what_the_masked_one_writes(way):
    expected = write(pruned(llama()), **WAYS[way])
    compact = compact_model(pruned(llama()), multiple_of=1)
    assert compact.num_parameters() < llama().num_parameters()
    assert torch.equal(write(compact, **WAYS[way]), expected)
    assert not torch.equal(write(llama(), **WAYS[way]), expected)


@pytest.mark.parametrize("form", ["stock", "compact"])
def test_an_exported_model_writes_what_the_masked_one_writes(form, tmp_path):
    expected = {way: write(pruned(llama()), **settings) for way, settings in WAYS.items()}
    export_model(pruned(llama()), tmp_path / "export", form=form)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    for way, settings in WAYS.items():
        assert torch.equal(write(loaded, **settings), expected[way]), way


def test_a_row_of_a_batch_is_written_as_alone():
    compact = compact_model(pruned(llama()), multiple_of=1)
    alone = compact.generate(torch.tensor([[5, 9, 13]]), max_new_tokens=12, do_sample=False)
    together = write(compact)[0, 2:]
    assert torch.equal(together[: alone.shape[1]], alone[0])
    assert alone.shape[1] > 4  # more than the prompt, up to the end of the text
    assert not together[alone.shape[1] :].any()  # padding


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_adapters_are_trained_merged_and_pruned(level, tmp_path: Path):
    """The way of the documentation with LoRA, on a language model with grouped queries."""
    dense = llama()
    patch_model(dense, level=level, targeting=0.5, importance="magnitude")
    adapted: Any = get_peft_model(dense, LoraConfig(target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for update in range(20):
        anneal(adapted.train(), update / 20, update)
        loss = adapted(**batch(), labels=batch()["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < sum(losses[:3])
    merged = unpatch_model(adapted.eval().merge_and_unload())
    report = prune_model(merged, 0.5, level=level, importance="magnitude")
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    expected = write(merged)
    export_model(merged, tmp_path / "export")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert torch.equal(write(loaded), expected)
