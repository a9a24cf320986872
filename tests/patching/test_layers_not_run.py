"""Layers that an update does not run, or that get no gradient, with the families' own defaults."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers import set_seed

from hf_td import Schedule, anneal, fix_pattern, patch_model, prune_model, unpatch_model
from hf_td.patching.patch import find_patch
from hf_td.ranking.activations import INTERVAL, find_activations
from tests.tiny import IMAGE, TEXT, checkpoint_activations

UPDATES = 12
# Half of the updates are dense.
OFTEN_DENSE: dict[str, Any] = {
    "targeting": 0.5,
    "targeting_schedule": Schedule(off=0.5),
    "drop_rate": 0.8,
}
_SOUND: dict[str, Any] = {
    **{name: size for name, size in TEXT.items() if name != "num_hidden_layers"},
    "num_hidden_layers": 4,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
Batch = dict[str, Tensor]


def _sound(update: int) -> Batch:
    return {"input_values": torch.randn(4, 400), "labels": torch.arange(4) % 2}


def hubert() -> Any:
    config = hf.HubertConfig(**_SOUND)
    assert config.layerdrop == 0.1
    return hf.HubertForSequenceClassification(config)


def wav2vec2() -> Any:
    config = hf.Wav2Vec2Config(**_SOUND)
    assert config.layerdrop == 0.1
    return hf.Wav2Vec2ForSequenceClassification(config)


def llava() -> Any:
    vision = hf.CLIPVisionConfig(**{**IMAGE, "patch_size": 8})
    config = hf.LlavaConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_index=63
    )
    assert config.vision_feature_layer == -2  # the last vision layer gets no gradient
    return hf.LlavaForConditionalGeneration(config)


def _sometimes_an_image(update: int) -> Batch:
    ids = torch.randint(3, 60, (2, 9))
    if update % 2:
        return {"input_ids": ids, "labels": ids}
    ids[:, :4] = 63
    return {"input_ids": ids, "labels": ids, "pixel_values": torch.rand(2, 3, 16, 16)}


MODELS: dict[str, tuple[Callable[[], Any], Callable[[int], Batch]]] = {
    "hubert": (hubert, _sound),
    "wav2vec2": (wav2vec2, _sound),
    "llava": (llava, _sometimes_an_image),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


@contextmanager
def noting_calls(model: Any) -> Iterator[set[str]]:
    """Collect the names of the targeted layers that a forward runs."""
    called: set[str] = set()
    patch = find_patch(model)
    assert patch is not None
    hooks = [
        site.layer.register_forward_pre_hook(lambda *_, name=site.name: called.add(name))
        for site in patch.sites
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def update_once(model: Any, optimizer: Any, update: int, batch: Batch) -> set[str]:
    """Make an update; return the names of the targeted layers that it ran."""
    anneal(model.train(), progress=min(1.0, update / UPDATES), update=update)
    with noting_calls(model) as called:
        loss = model(**batch).loss
        loss.backward()
    assert torch.isfinite(loss)
    optimizer.step()
    optimizer.zero_grad()
    return called


# None: activations are not recomputed.
@pytest.mark.parametrize(
    ("name", "reentrant"),
    [("wav2vec2", None), *itertools.product(("hubert", "llava"), (None, True, False))],
)
@every_level
def test_layers_that_are_not_run_train_in_dense_updates_and_others(name, level, reentrant):
    set_seed(0)
    make, batch_of = MODELS[name]
    model = patch_model(make(), level=level, **OFTEN_DENSE)
    if reentrant is not None:
        checkpoint_activations(model, use_reentrant=reentrant)
    patch: Any = find_patch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    missed: set[bool] = set()  # True for dense updates
    for update in range(UPDATES):
        before = {site.name: site.layer.weight.detach().clone() for site in patch.sites}
        called = update_once(model, optimizer, update, batch_of(update))
        dense = patch.config.rates(update / UPDATES, update).targeting == 0
        for site in patch.sites:
            if site.name not in called:
                missed.add(dense)
                assert torch.equal(site.layer.weight, before[site.name])
        assert any(not torch.equal(s.layer.weight, before[s.name]) for s in patch.sites)
    assert missed == {True, False}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    unpatch_model(model)
    assert prune_model(model, 0.5, level=level).sparsity > 0.4


def averages_of(model: Any) -> dict[str, Tensor]:
    patch: Any = find_patch(model)
    patch.update_averages()
    found = find_activations(model)
    return {} if found is None else {name: found.mean_squares[name] for name in found.names()}


@every_model
@every_level
def test_only_layers_that_a_measured_update_runs_are_measured(name, level):
    set_seed(0)
    make, batch_of = MODELS[name]
    model = patch_model(make(), level=level, importance="activation", **OFTEN_DENSE)
    patch: Any = find_patch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    missed = 0
    for number in range(8):
        before = averages_of(model)
        called = update_once(model, optimizer, number * INTERVAL, batch_of(number))
        after = averages_of(model)
        for site in patch.sites:
            if site.name in called:
                assert site.name not in before or not torch.equal(
                    after[site.name], before[site.name]
                )
            else:
                missed += 1
                assert (site.name in after) == (site.name in before)
                assert site.name not in after or torch.equal(after[site.name], before[site.name])
            assert torch.isfinite(site.scores()).any()
    assert missed > 0


@every_level
def test_layers_that_never_ran_are_ranked_as_in_training_and_named(level, caplog):
    """Text alone trains a model that sees; then its pattern is fixed, as an evaluation prunes."""
    set_seed(0)
    model = patch_model(llava(), level=level, targeting=0.5, importance="activation")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for update in range(2):
        update_once(model, optimizer, update, _sometimes_an_image(1))
    fix_pattern(model, 0.5, optimizer=optimizer)
    assert "ran in no update that measured activations" in caplog.text
    assert "vision_tower" in caplog.text
    patch: Any = find_patch(model)
    zeros = [float((site.layer.weight == 0).float().mean()) for site in patch.sites]
    assert min(zeros) > 0.4


@every_level
def test_a_saved_model_ranks_layers_that_never_ran_as_in_training(level, tmp_path, caplog):
    set_seed(0)
    model: Any = patch_model(llava(), level=level, targeting=0.5, importance="activation")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for update in range(2):
        update_once(model, optimizer, update, _sometimes_an_image(1))
    model.save_pretrained(tmp_path)
    saved = type(model).from_pretrained(tmp_path)
    for one in (model, saved):
        caplog.clear()
        prune_model(one, 0.5)
        assert "ran in no update that measured activations, one in 8" in caplog.text
    expected = dict(model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in saved.named_parameters())
    with pytest.raises(ValueError, match="are missing"):
        prune_model(saved, 0.5, include=["*vision_tower*"])


def test_a_training_that_measured_no_layer_says_so(caplog):
    model = patch_model(wav2vec2(), level="unit", targeting=0.5, importance="activation")
    model.config.layerdrop = 1.0
    prune_model(model, 0.0)
    assert not caplog.text, "nothing was trained yet"
    for update in range(2):
        anneal(model.train(), 1.0, update)
        model(**_sound(update))
    find_patch(model).update_averages()  # pyright: ignore
    prune_model(model, 0.5)
    assert "ran in no update that measured activations" in caplog.text
