"""Loading of models."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForSequenceClassification

from hf_td.ranking import activations
from hf_td.ranking.activations import find_activations
from hf_td.tasks.models import ModelSource
from tests.tiny import tiny_model


def test_activations_are_of_the_revision_of_the_model(monkeypatch):
    def load(name: str, **options: Any) -> Any:
        model: Any = tiny_model("bert")
        model.config.targeted_dropout = {"level": "unit", "importance": "activation"}
        model.config.name_or_path = model.name_or_path = name
        return model

    asked: list[str | None] = []
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", load)
    monkeypatch.setattr(
        activations, "cached_file", lambda *_, revision=None, **__: asked.append(revision)
    )
    options = {"revision": "v1", "cache_dir": None, "token": None, "trust_remote_code": False}
    source = ModelSource("someone/trained", "someone/trained", "someone/trained", options, {})
    model = source.load_model(AutoModelForSequenceClassification, tiny_model("bert").config)
    assert find_activations(model) is None
    assert asked == ["v1"]  # and not of main, where v1 has none
