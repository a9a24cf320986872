"""Every family goes the whole way, at both levels: from patching to the reloaded export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from hf_td import anneal, compact_model, patch_model, prune_model, read_anatomy, unpatch_model
from hf_td.hub import export_model, load_archived_model
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import save_activations
from scripts import families
from tests.families import TABLE, Family, family_inputs, family_outputs, tiny_family

every_family = pytest.mark.parametrize("name", TABLE)
of_heads = {
    kind: pytest.mark.parametrize("name", [n for n, row in TABLE.items() if row.heads == kind])
    for kind in ("removed", "masked", "refused")
}
of_mixtures = pytest.mark.parametrize("name", [n for n, row in TABLE.items() if row.experts])
ONLY_EXPERTS: dict[str, Any] = {"attention_level": "none", "feed_forward_level": "none"}
UPDATES = 2


def settings_of(family: Family, level: str) -> dict[str, Any]:
    """Return settings that drop much from the first update on."""
    chosen = family.unit_settings if level == "unit" else {"level": level}
    schedules = {"targeting_schedule": "constant", "drop_rate_schedule": "constant"}
    return {**chosen, **schedules, "targeting": 0.5, "drop_rate": 0.8}


def train(model: Any, first: int, last: int) -> None:
    """Make the updates `first` to `last - 1`, each of which depends only on its number."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(first, last):
        torch.manual_seed(update)  # of the model's own dropout
        anneal(model.train(), progress=update / UPDATES, update=update)
        model(**family_inputs(model))[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def assert_equal_outputs(model: Any, expected: dict[str, Tensor]) -> None:
    got = family_outputs(model)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(got[key], value, rtol=1e-5, atol=1e-5)


def assert_equal_states(model: Any, other: Any) -> None:
    left, right = model.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return type(model).from_pretrained(folder, local_files_only=True)


def heads_and_neurons(model: Any) -> tuple[int, int]:
    """Return the numbers of units of the first attention and feed-forward blocks."""
    blocks = read_anatomy(model).blocks
    heads = next(block.units for block in blocks if block.part == "attention")
    return heads, next(block.units for block in blocks if block.part == "feed_forward")


@every_family
def test_the_reading_finds_heads_and_neurons(name):
    assert heads_and_neurons(tiny_family(name)) == TABLE[name].sizes


@every_family
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_resumed_run_is_an_uninterrupted_one(name, level, tmp_path):
    settings = settings_of(TABLE[name], level)
    model = patch_model(tiny_family(name), **settings)
    train(model, 0, 1)
    patch = find_patch(model)
    assert patch is not None
    assert patch.dropped_share() > 0.1
    resumed = patch_model(tiny_family(name, seed=1), **settings)
    resumed.load_state_dict(model.state_dict())
    patch.update_averages()
    save_activations(model, tmp_path)
    again = find_patch(resumed)
    assert again is not None
    again.resume(tmp_path)
    train(model, 1, UPDATES)
    train(resumed, 1, UPDATES)
    assert_equal_states(model, resumed)
    assert not torch.equal(
        *(torch.cat([p.flatten() for p in m.parameters()]) for m in (model, tiny_family(name)))
    )


@every_family
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_the_stock_model_comes_back(name, level):
    model = tiny_family(name)
    expected = family_outputs(model)
    modules = {key: type(module) for key, module in model.named_modules()}
    parameters = dict(model.named_parameters())
    patch_model(model, **settings_of(TABLE[name], level))
    anneal(model, progress=0.0, update=0)
    assert {key: type(module) for key, module in model.named_modules()} != modules
    assert_equal_outputs(model, expected)
    unpatch_model(model)
    assert {key: type(module) for key, module in model.named_modules()} == modules
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
    assert len(dict(model.named_buffers())) == len(dict(tiny_family(name).named_buffers()))


@every_family
def test_sparse_weights_come_back_from_an_archive(name, tmp_path):
    model = tiny_family(name)
    report = prune_model(model, 0.5, level="weight")
    assert report.sparsity == pytest.approx(0.5)
    done = export_model(model, tmp_path / "x", form="archive", check=False)
    again = load_archived_model(done.folder)
    assert type(again) is type(model)
    assert_equal_states(again, model)
    assert_equal_outputs(again, family_outputs(model))


@every_family
def test_pruned_neurons_are_removed(name, tmp_path):
    model = tiny_family(name)
    prune_model(model, 0.5, attention_level="none", feed_forward_level="unit")
    heads, neurons = TABLE[name].sizes
    check_export(model, (heads, neurons // 2), TABLE[name].neurons, tmp_path)


@every_family
def test_pruned_units_are_removed_where_that_is_possible(name, tmp_path):
    family = TABLE[name]
    model = tiny_family(name)
    prune_model(model, 0.5, **family.unit_settings)
    heads, neurons = family.sizes
    left = heads // 2 if family.heads == "removed" else heads
    check_export(model, (left, neurons // 2), family.units, tmp_path)


@of_mixtures
def test_pruned_experts_are_removed(name, tmp_path):
    model = tiny_family(name)
    report = prune_model(model, 0.5, experts_level="unit", **ONLY_EXPERTS)
    counts = [(block.removed, block.total) for block in report.blocks if block.part == "experts"]
    assert counts == [(2, 4)] * 2
    check_export(model, TABLE[name].sizes, "stock", tmp_path)


def check_export(model: Any, left: tuple[int, int], form: str, folder: Path) -> None:
    """Export and reload, compact and reload: the outputs are those of the masked model."""
    expected = family_outputs(model)
    done = export_model(model, folder / "exported", check=False)
    assert done.form == form, done.reason
    again = reloaded(model, done.folder)
    assert_sizes(again, left)
    assert_equal_outputs(again, expected)
    assert done.parameters == again.num_parameters() < model.num_parameters()
    compact_model(model).save_pretrained(folder / "compact")
    assert_equal_outputs(model, expected)
    assert_equal_outputs(reloaded(model, folder / "compact"), expected)


def assert_sizes(model: Any, left: tuple[int, int]) -> None:
    """Compare the sizes of blocks; one with a single head left is not read as a block."""
    blocks = read_anatomy(model).blocks
    for part, units in zip(("attention", "feed_forward"), left, strict=True):
        found = next((block.units for block in blocks if block.part == part), units)
        assert found == units


@pytest.mark.parametrize("name", ["gpt_neox", "vit", "mixtral"])
def test_compact_exports_have_the_names_of_a_stock_checkpoint(name, tmp_path):
    model = tiny_family(name)
    model.save_pretrained(tmp_path / "dense")
    prune_model(model, 0.5, level="unit")
    expected = family_outputs(model)
    done = export_model(model, tmp_path / "x", form="compact", check=False)
    stored, dense = (load_file(f / "model.safetensors") for f in (done.folder, tmp_path / "dense"))
    assert stored.keys() == dense.keys()
    assert_equal_outputs(reloaded(model, done.folder), expected)


@of_heads["masked"]
def test_heads_that_a_forward_needs_are_not_removed(name):
    model = tiny_family(name)
    prune_model(model, 0.5, attention_level="unit", feed_forward_level="none")
    expected = family_outputs(model)
    with pytest.raises(ValueError, match=f"can be taken out: .*{TABLE[name].why}"):
        compact_model(model)
    assert_equal_outputs(model, expected)


@of_heads["refused"]
def test_heads_that_are_no_units_are_refused(name):
    with pytest.raises(ValueError, match=f"cannot be dropped: {TABLE[name].why}"):
        patch_model(tiny_family(name), level="unit")
    with pytest.raises(ValueError, match=f"cannot be dropped: {TABLE[name].why}"):
        prune_model(tiny_family(name), 0.5, level="unit")


@pytest.mark.slow
@every_family
def test_exports_load_in_a_fresh_process(name, tmp_path):
    model = tiny_family(name)
    prune_model(model, 0.5, **TABLE[name].unit_settings)
    ways: dict[Any, tuple[str, ...]] = {
        "compact": ("hf_td", "remote_code"),
        "archive": ("archive",),
        "padded": ("stock",),
        **({"stock": ("stock",)} if TABLE[name].units == "stock" else {}),
    }
    for form, expected in ways.items():
        assert export_model(model, tmp_path / form, form=form).ways == expected


def test_the_page_has_the_table_of_the_tests():
    page = families.PAGE.read_text(encoding="utf-8")
    assert families.updated(page) == page, "run python scripts/families.py"


def test_the_rest_of_the_page_is_kept():
    others = f"{families.END}\nb\n<!-- coverage -->\nc\n<!-- /coverage -->\n"
    new = families.updated(f"a\n{families.BEGIN}\nold\n{others}")
    assert new.startswith(f"a\n{families.BEGIN}\n\n| family")
    assert new.endswith(others)
    assert "old" not in new
    with pytest.raises(ValueError, match=r"families\.md has no <!-- families --> "):
        families.updated("a page of another kind")
