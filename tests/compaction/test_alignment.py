"""Whisper's generation config still names the same heads after a cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from hf_td import compact_model, export_model, prune_model
from hf_td.compaction.layers import take_out_layers
from hf_td.modules.passing import is_passed
from tests.families import TRANSLATOR
from tests.tiny import VOCABULARY

SIZES: dict[str, Any] = {
    **TRANSLATOR,
    "num_mel_bins": 8,
    "max_source_positions": 30,
    "max_target_positions": 32,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
EVERY = [[layer, head] for layer in range(2) for head in range(4)]


def whisper(heads: list[list[int]]) -> Any:
    """Return a pruned model whose timestamps are read from these heads."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES)).eval()
    prune_model(model, 0.5, level="unit")
    config: Any = model.generation_config
    config.alignment_heads = heads
    config._from_model_config = False  # true of real checkpoints: they have the file
    config.no_timestamps_token_id, config.return_timestamps = VOCABULARY - 1, False
    return model


def timestamps(model: Any) -> torch.Tensor:
    sound = torch.randn(1, 8, 60, generator=torch.Generator().manual_seed(0))
    settings = {"return_token_timestamps": True, "num_frames": 60, "min_new_tokens": 8}
    return model.generate(sound, max_new_tokens=8, **settings)["token_timestamps"]


def living_heads(model: Any) -> list[list[int]]:
    columns = [layer.encoder_attn.out_proj.weight for layer in model.model.decoder.layers]
    return [
        [layer, head] for layer, head in EVERY if columns[layer][:, 8 * head : 8 * head + 8].any()
    ]


@pytest.mark.parametrize("place", range(4))
def test_timestamps_are_those_of_the_masked_model(place):
    model = whisper([living_heads(whisper(EVERY))[place]])
    expected = timestamps(model)
    compact_model(model, multiple_of=1)
    assert torch.equal(timestamps(model), expected)


def test_so_are_those_of_an_export(tmp_path):
    heads = living_heads(whisper(EVERY))[-1:]
    model = whisper(heads)
    export_model(model, tmp_path / "export", check=False)
    assert model.generation_config.alignment_heads == heads
    again: Any = WhisperForConditionalGeneration.from_pretrained(tmp_path / "export")
    assert again.generation_config.alignment_heads != heads
    assert torch.equal(timestamps(again), timestamps(model))


def test_removed_heads_are_no_longer_named(caplog):
    model = whisper(EVERY)
    compact_model(model, multiple_of=1)
    assert model.generation_config.alignment_heads == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert "4 of the 8 heads" in caplog.text
    gone = next(head for head in EVERY if head not in living_heads(whisper(EVERY)))
    model = whisper([gone])
    compact_model(model, multiple_of=1)
    with pytest.raises(ValueError, match="alignment_heads"):
        timestamps(model)


def test_the_layers_of_the_heads_are_those_that_were_named():
    torch.manual_seed(0)
    deep = {**SIZES, "decoder_layers": 4}
    model: Any = WhisperForConditionalGeneration(WhisperConfig(**deep)).eval()
    prune_model(model, {"layers": 0.5}, level="unit", layers_level="unit")
    gone = [i for i, layer in enumerate(model.model.decoder.layers) if is_passed(layer)]
    kept = [i for i in range(4) if i not in gone]
    assert len(gone) == 2
    model.generation_config.alignment_heads = [[i, i % 4] for i in range(4)]
    undo = take_out_layers(model)
    assert undo is not None
    assert model.generation_config.alignment_heads == [[0, kept[0]], [1, kept[1]]]
    undo()
    assert model.generation_config.alignment_heads == [[i, i % 4] for i in range(4)]
