"""Importance by activation: measuring, ranking, saving and finding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_td import (
    anneal,
    compact_model,
    functional,
    patch_model,
    patching,
    prune_model,
    unpatch_model,
)
from hf_td.patching.layers import kept
from hf_td.pruning import sites_to_prune
from hf_td.ranking import activations, saved
from hf_td.ranking.activations import (
    FILE,
    Activations,
    measure_activations,
    sampled_squares,
)
from hf_td.ranking.importance import unit_scores
from tests.tiny import tiny_inputs, tiny_model

FAMILIES = ["bert", "gpt2", "llama", "t5", "vit"]
ALWAYS: dict[str, Any] = {
    "importance": "activation",
    "targeting": 0.5,
    "targeting_schedule": "constant",
    "drop_rate_schedule": "constant",
}


def find_patch(model: PreTrainedModel) -> Any:
    patch = patching.find_patch(model)
    assert patch is not None
    return patch


def find_activations(model: PreTrainedModel) -> Any:
    found = activations.find_activations(model)
    assert found is not None
    return found


def batches_of(model: PreTrainedModel, count: int = 3) -> list[dict[str, Tensor]]:
    return [tiny_inputs(model, 4, 16) for _ in range(count)]


def seen_by(model: PreTrainedModel, name: str, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean square of a layer's inputs over every thirteenth row, the plain way."""
    found: list[Tensor] = []
    layer = model.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, x: found.append(x[0].detach()))
    model(**batch)
    hook.remove()
    rows = torch.cat([x.reshape(-1, x.shape[-1])[::13] for x in found])
    return rows.square().mean(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_training_measures_the_inputs_of_every_site(family, level):
    model = patch_model(tiny_model(family), level=level, drop_rate=0.0, **ALWAYS)
    batch = tiny_inputs(model, 4, 16)
    anneal(model.train(), 0.0, 0)
    for module in model.modules():  # a second forward then has the same inputs
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # of T5's attention
            setattr(module, "dropout", 0.0)  # noqa: B010
    model(**batch)
    anneal(model, 0.5, 1)
    measured = find_activations(model)
    sites = find_patch(model).sites
    assert set(measured.mean_squares) == {site.name for site in sites}
    for site in sites[:4]:
        expected = seen_by(model, site.name, batch)
        torch.testing.assert_close(measured.mean_squares[site.name], expected)


def test_the_averages_move_with_every_measured_update():
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    patch = find_patch(model)
    name, layer = patch.sites[0].name, patch.sites[0].layer
    expected: Any = None
    for update in range(2 * activations.INTERVAL + 3):
        anneal(model.train(), 0.5, update)
        rows = torch.randn(16, layer.in_features)
        layer(rows[:8])
        layer(rows[8:])  # two micro-batches of one update
        square = rows[[0, 8]].square().mean(0)
        if update % activations.INTERVAL == 0:
            expected = square if expected is None else 0.9 * expected + 0.1 * square
    patch.update_averages()
    torch.testing.assert_close(patch.activations.mean_squares[name], expected)
    patch.update_averages()  # idempotent
    torch.testing.assert_close(patch.activations.mean_squares[name], expected)


def test_evaluation_measures_nothing():
    model = patch_model(tiny_model("bert"), **ALWAYS)
    model.eval()(**tiny_inputs(model))
    anneal(model, 0.5, 1)
    assert not find_activations(model).names()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_weights_are_ranked_by_magnitude_times_input(family):
    model = tiny_model(family)
    site: Any = sites_to_prune(model, level="weight", calibration=batches_of(model))[0]
    scale = site.activations.mean_squares[site.name].sqrt()
    weight, scores = (
        site.layer.weight.detach(),
        functional.weight_scores(site.layer.weight, scale, site.rule),
    )
    for index in [(0, 0), (3, 1), (1, 5)]:
        fan_in = index[0] if family == "gpt2" else index[1]  # Conv1D is (in, out)
        torch.testing.assert_close(scores[index], weight[index].abs() * scale[fan_in])
    torch.testing.assert_close(site.scores(), scores)


def test_units_are_ranked_by_norm_times_output():
    model = tiny_model("bert")
    site: Any = sites_to_prune(model, level="unit", calibration=batches_of(model))[0]
    squares = site.activations.mean_squares[site.name]
    size = squares.numel() // site.block.units
    for unit, score in enumerate(site.scores()):
        own = squares[unit * size : (unit + 1) * size].mean().sqrt()
        torch.testing.assert_close(score, unit_scores(site.members)[unit] * own)


def test_tied_blocks_choose_the_same_units():
    model = tiny_model("t5")
    sites = sites_to_prune(model, level="unit", calibration=batches_of(model))
    by_index: dict[int, list[Tensor]] = {}
    for site in sites:
        by_index.setdefault(site.index, []).append(site.scores())
    tied = [scores for scores in by_index.values() if len(scores) > 1]
    assert tied
    for scores in tied:
        assert all(torch.equal(scores[0], other) for other in scores)


def test_the_mask_follows_the_activations():
    model = patch_model(tiny_model("bert"), level="unit", drop_rate=1.0, **ALWAYS)
    patch = find_patch(model)
    site = next(site for site in patch.sites if site.block.part == "feed_forward")
    loud = torch.arange(site.layer.in_features) % 2 == 0
    rows = torch.ones(64, site.layer.in_features) * torch.where(loud, 100.0, 0.01)
    anneal(model.train(), 0.5, 0)
    site.layer(rows)
    anneal(model, 0.5, 1)
    assert torch.equal(kept(site.layer)[0], loud)


def test_activations_outlive_unpatching_and_are_saved_next_to_the_weights(tmp_path):
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    for update in range(2):
        anneal(model.train(), 0.5, update)
        model(**tiny_inputs(model))
    find_patch(model).update_averages()
    unpatch_model(model)
    measured = find_activations(model)
    measured.save(tmp_path)
    model.save_pretrained(tmp_path)
    assert (tmp_path / FILE).is_file()
    again: Any = type(model).from_pretrained(tmp_path)
    prune_model(model, 0.5, level="unit", importance="activation")
    prune_model(again, 0.5, level="unit", importance="activation")
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_pruning_without_activations_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"are missing\..* Pass a few batches of training"):
        prune_model(tiny_model("bert"), 0.5, importance="activation")
    with pytest.raises(ValueError, match="there was none"):
        prune_model(tiny_model("bert"), 0.5, calibration=[], importance="activation")


def test_activations_of_another_number_of_features_are_refused():
    model = tiny_model("bert")
    names = [site.name for site in sites_to_prune(model, level="weight")]
    wrong = Activations(dict.fromkeys(names, torch.ones(7)))
    with pytest.raises(ValueError, match="of 7 features, and it has 32"):
        wrong.scale(names[0], 32)


def test_calibration_does_not_change_the_model():
    model = tiny_model("bert").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [site.name for site in sites_to_prune(model, level="weight")]
    measured = measure_activations(model, names, batches_of(model))
    assert model.training
    assert set(measured.mean_squares) == set(names)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def on_the_hub(place: str) -> Any:
    model: Any = tiny_model("bert")
    model.config.name_or_path = model.name_or_path = place
    return model


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """Return the list of requests to a Hub that has no file."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(saved, "cached_file", lambda place, _, **how: found.append((place, how)))
    return found


def test_the_hub_is_asked_only_for_models_trained_by_activation(asked):
    model = on_the_hub("someone/plain")
    assert activations.download_activations(model) is None
    assert asked == []
    model.config.targeted_dropout = {"level": "unit", "importance": "activation"}
    assert activations.download_activations(model) is None
    assert [place for place, _ in asked] == ["someone/plain"]


def test_the_hub_is_asked_with_the_given_revision_token_and_subfolder(asked):
    model = on_the_hub("someone/trained")
    model.config.targeted_dropout = {"level": "unit", "importance": "activation"}
    given = {"revision": "v1", "token": "t", "subfolder": "part"}
    assert activations.download_activations(model, **given) is None
    ((place, how),) = asked
    assert place == "someone/trained"
    assert given.items() <= how.items()


def test_finding_and_patching_do_not_ask_the_hub(asked):
    model = on_the_hub("someone/trained")
    model.config.targeted_dropout = {"level": "unit", "importance": "activation"}
    before = dict(model.__dict__)
    assert activations.find_activations(model) is None
    assert model.__dict__ == before
    patch_model(model, **ALWAYS)
    assert asked == []


def test_the_number_of_rows_is_exact_in_half_precision():
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS).bfloat16()
    patch = find_patch(model)
    anneal(model.train(), 1.0, 0)
    layer = patch.sites[0].layer
    layer(torch.ones(13 * 1001, layer.in_features, dtype=torch.bfloat16))
    assert int(layer.input_rows) == 1001


@pytest.mark.parametrize("length", [8, 64, 77, 128])
def test_first_tokens_weigh_no_more_than_other_tokens(length):
    inputs = torch.ones(64, length, 4)
    inputs[:, 0] = 100
    squares, rows = sampled_squares(inputs)
    mean = float(inputs[..., 0].square().mean())
    assert float(squares[0]) / rows == pytest.approx(mean, rel=0.3)


def test_activations_measured_before_compacting_are_refused():
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    batches = [tiny_inputs(model)]
    for update in range(2):
        anneal(model.train(), 1.0, update)
        model(**batches[0])
    prune_model(model, 0.5)
    compact_model(model)
    with pytest.raises(ValueError, match="before features were taken out"):
        prune_model(model, 0.5, level="unit", importance="activation")
    assert prune_model(model, 0.5, level="unit", calibration=batches).sparsity > 0.4


def test_a_refused_patch_keeps_the_activations():
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    known = find_activations(model)
    unpatch_model(model)
    with pytest.raises(ValueError, match="nowhere"):
        patch_model(model, include=["*nowhere*"])
    assert find_activations(model) is known


def test_sums_of_a_model_that_is_cast_to_half_precision_do_not_overflow():
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS).half()
    anneal(model.train(), 1.0, 0)
    site = find_patch(model).sites[0]
    features = site.layer.in_features
    site.layer(torch.full((1300, features), 100.0, dtype=torch.float16))
    anneal(model, 1.0, 1)
    squares = find_activations(model).mean_squares[site.name]
    torch.testing.assert_close(squares, torch.full((features,), 1e4))


def test_a_saved_model_that_is_patched_again_starts_from_its_activations(tmp_path):
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    anneal(model.train(), 1.0, 0)
    model(**tiny_inputs(model))
    anneal(model, 1.0, 1)
    model.save_pretrained(tmp_path)
    activations.save_activations(model, tmp_path)
    measured = find_activations(model).mean_squares

    again = patch_model(type(model).from_pretrained(tmp_path), level="unit", **ALWAYS)
    found = find_activations(again)
    assert found.names() == set(measured)
    for name, squares in measured.items():
        assert torch.equal(found.mean_squares[name], squares)
    sites = [find_patch(one).sites[0].scores() for one in (model, again)]
    assert torch.equal(*sites)
    # Layers with another number of features start without activations.
    prune_model(again, 0.5)
    smaller = patch_model(compact_model(unpatch_model(again)), level="unit", **ALWAYS)
    assert not find_activations(smaller).names()


def test_calibration_restores_the_mode_of_each_module():
    model = tiny_model("bert").train()
    model.base_model.eval()
    modes = [module.training for module in model.modules()]
    prune_model(model, 0.5, calibration=[tiny_inputs(model)])
    assert [module.training for module in model.modules()] == modes


def test_inputs_in_float64_are_measured():
    model = patch_model(tiny_model("bert").double(), level="weight", **ALWAYS)
    anneal(model.train(), 1.0, 0)
    model(**tiny_inputs(model))
    anneal(model, 1.0, 1)
    assert find_activations(model).names()


def test_a_training_by_magnitude_makes_earlier_activations_stale(tmp_path):
    model = patch_model(tiny_model("bert"), level="unit", **ALWAYS)
    anneal(model.train(), 1.0, 0)
    model(**tiny_inputs(model))
    anneal(model, 1.0, 1)
    model.save_pretrained(tmp_path / "first")
    activations.save_activations(model, tmp_path / "first")

    again = type(model).from_pretrained(tmp_path / "first")
    patch_model(again, level="unit", importance="magnitude")
    again.save_pretrained(tmp_path / "second")
    activations.save_activations(again, tmp_path / "second")
    assert not (tmp_path / "second" / FILE).exists()
    with pytest.raises(ValueError, match=r"The activations of .* are missing"):
        prune_model(again, 0.5, importance="activation")


def test_activations_that_cannot_be_read_leave_a_model_unpatched(tmp_path):
    model: Any = tiny_model("bert")
    model.save_pretrained(tmp_path)
    (tmp_path / FILE).write_bytes(b"torn")
    model = type(model).from_pretrained(tmp_path)
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(Exception, match="header"):
        patch_model(model, level="unit")
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert patching.find_patch(model) is None


def test_a_record_of_a_later_version_survives_patching_and_unpatching():
    model: Any = tiny_model("bert")
    model.config.targeted_dropout = {"of_a_later_version": 1}
    unpatch_model(patch_model(model, **ALWAYS))
    assert model.config.targeted_dropout == {"of_a_later_version": 1}


def test_sums_that_are_not_finite_count_as_not_measured():
    activations = Activations({"known": torch.full((2,), 4.0)})
    bad = torch.tensor([1.0, torch.inf]), torch.tensor(1)
    activations.update({"known": bad, "new": (torch.full((3,), torch.nan), torch.tensor(1))})
    assert activations.mean_squares["known"].tolist() == [4.0, 4.0]
    assert activations.names() == {"known"}
    activations.update({"new": (torch.tensor([2.0, 4.0, 6.0]), torch.tensor(2))})
    assert activations.mean_squares["new"].tolist() == [1.0, 2.0, 3.0]
