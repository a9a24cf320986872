"""CTranslate2 converts stock exports, and computes the same, with 8 bits nearly so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.friends.helpers import PROMPT, assert_near, friend, logits_of, pruned_export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the library
]
NEURONS: dict[str, Any] = {"attention_level": "none"}


def computed(folder: Path, target: Path, quantization: str | None) -> torch.Tensor:
    library = friend("ctranslate2")
    converter = library.converters.TransformersConverter(str(folder))
    converter.convert(str(target), quantization=quantization)
    generator = library.Generator(str(target), device="cpu", intra_threads=1)
    words = [["<pad>", "<s>", "</s>"][n] if n < 3 else f"w{n}" for n in PROMPT]
    return torch.from_numpy(np.array(generator.forward_batch([words])))[0]


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", NEURONS), ("qwen3", NEURONS), ("qwen3", {})]
)
def test_logits_are_those_of_transformers(family, settings, tmp_path):
    friend("ctranslate2")
    model, folder = pruned_export(family, tmp_path / "stock", **settings)
    expected = logits_of(model, PROMPT)
    assert_near(computed(folder, tmp_path / "exact", None), expected, 1e-4)
    assert_near(computed(folder, tmp_path / "int8", "int8"), expected, 0.15)


def test_heads_of_a_llama_cannot_be_fewer(tmp_path):
    """Its converter takes hidden_size / num_attention_heads for the size of a head.

    When this fails, the library reads head_dim: say so in docs/engines.md.
    """
    friend("ctranslate2")
    _, folder = pruned_export("llama", tmp_path / "stock")
    with pytest.raises((ValueError, RuntimeError), match=r"dimension|head"):
        computed(folder, tmp_path / "exact", None)
