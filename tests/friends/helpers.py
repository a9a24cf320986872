"""What the tests of other libraries share: imports, a vocabulary, and checks while they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast, TrainerCallback

from hf_td import export_model, prune_model
from hf_td.patching.layers import kept
from hf_td.patching.patch import find_patch
from tests.tiny import VOCABULARY, tiny_model

# The targeting rises evenly, so the share of dropped weights tells the progress.
RISING: dict[str, Any] = {
    "targeting": 0.8,
    "targeting_schedule": "linear",
    "drop_rate": 1.0,
    "drop_rate_schedule": "constant",
}
UPDATES = 4
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "max_steps": UPDATES,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "learning_rate": 1e-2,
}


def friend(name: str) -> Any:
    """Import a library, or skip the test."""
    return pytest.importorskip(
        name,
        reason=f"{name} is not installed: bash scripts/test.sh --friends",
        exc_type=ImportError,
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words: w3 to w63."""
    special = {"<pad>": 0, "<s>": 1, "</s>": 2}
    words = special | {f"w{number}": number for number in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def folder_with(model: Any, folder: Path) -> str:
    """Save a model together with its tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def tiny_encoder(folder: Path) -> str:
    """Save a tiny encoder without a head."""
    model: Any = tiny_model("bert")
    return folder_with(model.bert, folder)


def sentences(count: int, start: int = 0) -> list[str]:
    """Return sentences of five random words."""
    draws = torch.Generator().manual_seed(start)
    numbers = torch.randint(3, VOCABULARY, (count, 5), generator=draws)
    return [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]


class DroppedGradients(TrainerCallback):
    """A check that dropped weights get no gradient in any update, and others do.

    Attributes:
        shares: the share of dropped weights in each update.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shares: list[float] = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        patch = find_patch(self.model)
        assert patch is not None
        for site in patch.sites:
            grad, keep = site.layer.weight.grad, kept(site.layer)
            assert not grad[~keep.expand_as(grad)].any(), site.name
            assert grad.any(), site.name
        self.shares.append(patch.dropped_share())

    def assert_annealed(self, updates: int = UPDATES) -> None:
        assert len(self.shares) == updates
        assert self.shares[0] == 0
        assert self.shares == sorted(self.shares)
        assert self.shares[-1] > 0.4


def assert_logged(history: list[dict[str, Any]]) -> None:
    """Assert that the log of each update has the rates of `RISING`."""
    found = [entry["targeting"] for entry in history if "learning_rate" in entry]
    assert found == pytest.approx([0.8 * update / UPDATES for update in range(UPDATES)])


# ---- language models in other engines ----------------------------------------------------------

# The size of a head is no longer hidden_size / num_attention_heads once heads are pruned.
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
}
_CAUSAL: dict[str, tuple[str, str]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}
PROMPT = list(range(3, 13))


def random_model(family: str, vocabulary: int, **fields: Any) -> Any:
    """Return a random language model whose logits differ."""
    config, model_class = (getattr(transformers, name) for name in _CAUSAL[family])
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {**_SIZES, "vocab_size": vocabulary, "head_dim": 8, **fields}
    model = model_class(config(**sizes, **ends)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def pruned_export(
    family: str, folder: Path, *, tokenizer: Any = None, **settings: Any
) -> tuple[Any, Path]:
    """Prune half of a random language model, export it in the stock form, and return both."""
    tokenizer = tokenizer or tiny_tokenizer()
    model = random_model(family, len(tokenizer))
    prune_model(model, 0.5, level="unit", **settings)
    export = export_model(model, folder, form="stock", processing_class=tokenizer, check=False)
    assert export.parameters < model.num_parameters()
    return model, folder


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the logits of one sequence, `(tokens, vocabulary)`."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def assert_near(got: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    """Assert that the largest error is below a share of the largest logit."""
    assert_close(got, expected, rtol=0, atol=share * float(expected.abs().max()))
