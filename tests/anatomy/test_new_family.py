"""A new family touches no file of the product if its blocks are found, and one row if not."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import hf_td
from hf_td import (
    FeedForwardBlocks,
    anneal,
    compact_model,
    patch_model,
    prune_model,
    read_anatomy,
    register_family,
    unpatch_model,
)
from tests.anatomy.known import assert_reads, attention, neurons

PACKAGE = Path(hf_td.__file__).parent
# "git" is a model type, and a program that the product runs.
MODEL_TYPES = set(MODEL_MAPPING_NAMES) - {"git"}
MODEL_CLASSES = {
    name
    for names in MODEL_MAPPING_NAMES.values()
    for name in ([names] if isinstance(names, str) else names)
}
HEADS = attention(*(f"rungs.#.look.{name}" for name in ("ask", "offer", "tell", "join")))
NEURONS = neurons("rungs.#.widen", "rungs.#.narrow")


class LadderConfig(PreTrainedConfig):
    model_type = "ladder"

    def __init__(self, normed: bool = False, **kwargs: Any) -> None:
        self.normed = normed
        super().__init__(**kwargs)


class Look(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.ask, self.offer, self.tell = (nn.Linear(32, 32) for _ in range(3))
        self.join = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, 8)).transpose(1, 2)
            for layer in (self.ask, self.offer, self.tell)
        )
        return self.join(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Rung(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.look = Look()
        self.widen, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)
        self.between = nn.LayerNorm(64) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look(self.before(x))
        return x + self.narrow(self.between(self.widen(self.after(x)).relu()))


class Ladder(PreTrainedModel):
    """A model in words that no other model uses."""

    config_class = LadderConfig

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        self.foot = nn.Embedding(64, 32)
        self.rungs = nn.ModuleList([Rung(config.normed) for _ in range(2)])
        self.post_init()

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        x = self.foot(input_ids)
        for rung in self.rungs:
            x = rung(x)
        return (x,)


def ladder(**settings: Any) -> Any:
    torch.manual_seed(0)
    return Ladder(LadderConfig(**settings)).eval()


def output(model: Any) -> Tensor:
    return model(input_ids=torch.arange(3, 12)[None])[0]


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.registry._FAMILIES", {})


def families_in(path: Path) -> set[str]:
    """Return the model types and classes that the code of a file names."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    names |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    names |= {n.name for n in nodes if isinstance(n, ast.alias)}
    return texts & MODEL_TYPES | (texts | names) & MODEL_CLASSES


def test_no_file_of_the_product_knows_a_family():
    known = {path.name: families_in(path) for path in sorted(PACKAGE.rglob("*.py"))}
    assert {name: families for name, families in known.items() if families} == {}


def test_a_family_whose_blocks_are_found_needs_no_row():
    assert_reads(read_anatomy(ladder()), [HEADS, NEURONS])


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_family_whose_blocks_are_found_goes_the_whole_way(level):
    model = patch_model(ladder(), level=level)
    anneal(model.train(), progress=1.0, update=0)
    output(model).square().sum().backward()
    dense = output(unpatch_model(model).eval())
    prune_model(model, 0.5, level=level)
    masked = output(model)
    assert not torch.equal(masked, dense)
    if level == "unit":
        compact_model(model)
        assert model.rungs[0].look.num_heads == 2
        assert model.rungs[0].widen.out_features == 32
    assert_close(output(model), masked)


def test_a_family_whose_blocks_are_not_found_needs_one_row():
    model = ladder(normed=True)
    assert_reads(read_anatomy(model), [HEADS])
    norm = "a norm mixes its neurons"
    register_family(
        "ladder", FeedForwardBlocks(path="rungs.*", up="widen", down="narrow", obstacle=norm)
    )
    blocks = [block for block in read_anatomy(model).blocks if block.part == "feed_forward"]
    assert [block.modules for block in blocks] == [
        (f"rungs.{i}.widen", f"rungs.{i}.narrow") for i in range(2)
    ]
    patch_model(model, level="weight")
    assert type(model.rungs[0].widen).__name__ == "TargetedLinear"
