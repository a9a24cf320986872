"""A patch uses the reading that it is given."""

from __future__ import annotations

from hf_td import anneal, patch_model, read_anatomy
from hf_td.anatomy import given
from tests.patching.models import (
    HALF,
    assert_same_masks,
    every_level,
    masks,
    patch_of,
)
from tests.tiny import tiny_model


@every_level
def test_a_given_reading_is_used_and_the_model_not_read_again(level, monkeypatch):
    model, twin = tiny_model("bert"), tiny_model("bert")
    anatomy, read = read_anatomy(model), []
    monkeypatch.setattr(
        given, "read_anatomy", lambda *args: read.append(args) or read_anatomy(*args)
    )
    patch_model(model, anatomy=anatomy, level=level, **HALF)
    assert patch_of(model).anatomy is anatomy
    assert not read
    patch_model(twin, level=level, **HALF)
    assert len(read) == 1
    for one in (model, twin):
        anneal(one, 1.0, 0)
    assert_same_masks(masks(model), masks(twin))
    assert len(read) == 1
