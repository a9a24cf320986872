"""Saved activations and scores are checked when they are read: one error, no wrong rank."""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_td import cli, patch_model, prune_model
from hf_td.config import CONFIG_KEY, TargetedDropoutConfig
from hf_td.pruning import sites_to_prune
from hf_td.ranking.activations import (
    ACTIVATIONS,
    Activations,
    find_activations,
    load_activations,
)
from hf_td.ranking.learned import LEARNED, find_learned, load_learned
from hf_td.tensor_files import HEADER_LIMIT
from tests.tiny import tiny_inputs, tiny_model

Change = Callable[[Path], Any]
DOWN = "model.layers.0.mlp.down_proj"


def replaced(tensor: torch.Tensor) -> Change:
    return lambda path: save_file({DOWN: tensor}, path)


def rewritten(change: Callable[[bytes], bytes]) -> Change:
    return lambda path: path.write_bytes(change(path.read_bytes()))


# What is wrong with a file, and what the message says of it.
DAMAGE: dict[str, tuple[Change, str]] = {
    "empty": (rewritten(lambda b: b""), "should be whole safetensors"),
    "cut": (rewritten(lambda b: b[:-5]), "should be whole safetensors"),
    "text": (rewritten(lambda b: b"not a file of tensors"), "header of at most"),
    "no mapping": (rewritten(lambda b: struct.pack("<Q", 2) + b"[]"), "should be whole safet"),
    "large header": (
        rewritten(lambda b: struct.pack("<Q", HEADER_LIMIT + 1) + b" " * 99),
        f"header of at most {HEADER_LIMIT} bytes, got {HEADER_LIMIT + 1}",
    ),
    "other type": (replaced(torch.ones(64).bfloat16()), "should be a tensor of F32"),
    "wide type": (replaced(torch.ones(64).double()), "should be a tensor of F32"),
    "integers": (replaced(torch.ones(64).long()), "should be a tensor of F32"),
    "nothing in it": (replaced(torch.ones(0)), "that is not empty, got F32 of shape"),
    "nan": (replaced(torch.ones(64).index_fill(0, torch.tensor([3]), torch.nan)), "got nan"),
    "inf": (replaced(torch.ones(64).index_fill(0, torch.tensor([3]), torch.inf)), "to inf"),
}
ONLY_ACTIVATIONS: dict[str, tuple[Change, str]] = {
    "scalar": (replaced(torch.ones(())), "with 1 dimension that is not empty, got F32 of shape"),
    "matrix": (replaced(torch.ones(1, 64)), "with 1 dimension that is not empty, got F32 of shape"),
    "negative": (replaced(-torch.ones(64)), "should be from 0 to 1.26765e.30, got -1 to -1"),
    "huge": (replaced(torch.full((64,), 1e37)), "got 1e.37 to 1e.37"),
}
CASES = [
    *((kind, name) for kind in (ACTIVATIONS, LEARNED) for name in DAMAGE),
    *((ACTIVATIONS, name) for name in ONLY_ACTIVATIONS),
]
every_case = pytest.mark.parametrize(
    ("kind", "damage"), CASES, ids=[f"{kind.module}-{name}" for kind, name in CASES]
)


def importance_of(kind: Any) -> Any:
    return "activation" if kind is ACTIVATIONS else "learned"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a model, its activations and its scores."""
    model: Any = tiny_model("llama")
    settings = TargetedDropoutConfig(level="unit", importance="activation")
    setattr(model.config, CONFIG_KEY, settings.to_dict())
    model.save_pretrained(tmp_path)
    sites = sites_to_prune(model, level="unit", importance="magnitude")
    LEARNED.save(tmp_path, {site.name: site.scores() for site in sites})
    widths = {site.name: site.layer.weight.shape[1] for site in sites}
    Activations({name: torch.ones(width) for name, width in widths.items()}).save(tmp_path)
    return tmp_path


def loaded(folder: Path) -> Any:
    return type(tiny_model("llama")).from_pretrained(folder)


def damaged(folder: Path, kind: Any, damage: str) -> str:
    """Damage a file, and return the pattern of the message."""
    change, said = {**DAMAGE, **ONLY_ACTIVATIONS}[damage]
    change(folder / kind.file)
    return rf"The {kind.noun} in .*{kind.file} cannot be used: .*{said}.*(?s:.)*by importance='mag"


def test_whole_files_are_used(folder):
    for kind in (ACTIVATIONS, LEARNED):
        prune_model(loaded(folder), 0.5, level="unit", importance=importance_of(kind))


@every_case
def test_a_damaged_file_is_one_error_for_pruning(kind, damage, folder):
    said = damaged(folder, kind, damage)
    model = loaded(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        prune_model(model, 0.5, level="unit", importance=importance_of(kind))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@every_case
def test_a_damaged_file_is_one_error_for_those_who_read_it(kind, damage, folder):
    said = damaged(folder, kind, damage)
    readers: list[Callable[[], Any]] = (
        [
            lambda: find_activations(loaded(folder)),
            lambda: load_activations(loaded(folder), folder),
            lambda: Activations.load(folder),
            lambda: patch_model(loaded(folder), level="unit"),
        ]
        if kind is ACTIVATIONS
        else [lambda: find_learned(loaded(folder)), lambda: load_learned(loaded(folder), folder)]
    )
    for read in readers:
        with pytest.raises(ValueError, match=said):
            read()


@pytest.mark.parametrize("kind", [ACTIVATIONS, LEARNED], ids=lambda kind: kind.module)
def test_the_command_line_says_it_in_one_line(kind, folder, monkeypatch, capsys):
    damaged(folder, kind, "cut")
    words = ["prune", folder, folder / "small", "--sparsity", "0.5"]
    monkeypatch.setattr(sys, "argv", ["hf-td", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert line.startswith(f"error: The {kind.noun} in {folder}")
    assert not (folder / "small").exists()


def test_who_does_not_need_the_file_is_warned_alone(folder, caplog):
    damaged(folder, ACTIVATIONS, "cut")
    model = loaded(folder)
    with caplog.at_level(logging.WARNING):
        prune_model(model, 0.5, level="unit", importance="magnitude")
    assert "Saves of this model will not write it" in caplog.text
    model.save_pretrained(folder / "again")
    assert not (folder / "again" / ACTIVATIONS.file).exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, 1e37])
def test_values_in_memory_are_checked_too(value):
    model = tiny_model("llama")
    sites = sites_to_prune(model, level="unit", importance="magnitude")
    wide = {site.name: site.layer.weight.shape[1] for site in sites}
    wrong = Activations({name: torch.full((width,), value) for name, width in wide.items()})
    with pytest.raises(ValueError, match=r"activations of .* should be from 0 to 1"):
        prune_model(model, 0.5, level="unit", activations=wrong)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_in_memory_are_checked_too(value):
    model = tiny_model("llama")
    sites = sites_to_prune(model, level="unit", importance="magnitude")
    wrong = {site.name: torch.full_like(site.scores(), value) for site in sites}
    with pytest.raises(ValueError, match=r"the scores of .* should be from -inf to 3"):
        prune_model(model, 0.5, level="unit", scores=wrong)


def test_a_batch_that_gives_nan_is_no_calibration():
    model: Any = tiny_model("vit")
    batch = {**tiny_inputs(model), "labels": torch.zeros(2, dtype=torch.long)}
    batch["pixel_values"] = batch["pixel_values"].clone().fill_(torch.nan)
    for importance, said in (("activation", "the activations of"), ("taylor", "by gradients of")):
        with pytest.raises(ValueError, match=f"{said} .* got nan to nan"):
            prune_model(model, 0.5, level="unit", importance=importance, calibration=[batch])


def test_the_largest_finite_scores_rank_as_small_ones():
    for budget in ("uniform", "global"):
        kept: list[torch.Tensor] = []
        for factor in (1.0, 2.0**125):
            model: Any = tiny_model("llama")
            sites = sites_to_prune(model, level="unit", importance="magnitude")
            scores = {site.name: site.scores() / site.scores().max() * factor for site in sites}
            prune_model(model, 0.5, level="unit", scores=scores, budget=budget)
            kept.append(torch.cat([p.flatten() != 0 for p in model.parameters()]))
        assert torch.equal(*kept)


@pytest.mark.parametrize("config", ["", "[]", "{", '"x"', "\xff"])
def test_a_damaged_config_beside_it_fits_no_model(config, folder, tmp_path):
    around = tmp_path / "around"
    part = around / "part"
    part.mkdir(parents=True)
    (part / ACTIVATIONS.file).write_bytes((folder / ACTIVATIONS.file).read_bytes())
    (part / "config.json").write_text(config, encoding="latin-1")
    model = loaded(folder)
    model.name_or_path = str(around)
    assert find_activations(model) is None
