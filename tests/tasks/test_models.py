"""Loading of models."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from hf_td.ranking import saved
from hf_td.ranking.activations import find_activations
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.models import ModelSource, find_model
from tests.tiny import tiny_model


def test_the_folder_of_a_run_names_the_folder_of_its_model(tmp_path):
    (tmp_path / "seed-7").mkdir()
    (tmp_path / "seed-7" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"There is one in .*seed-7\. Give that folder"):
        find_model(ModelArguments(model_name_or_path=str(tmp_path)))


def test_activations_are_of_the_revision_of_the_model(monkeypatch):
    def load(name: str, **options: Any) -> Any:
        model: Any = tiny_model("bert")
        model.config.targeted_dropout = {"level": "unit", "importance": "activation"}
        model.config.name_or_path = model.name_or_path = name
        return model

    asked: list[str | None] = []
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", load)
    monkeypatch.setattr(
        saved, "cached_file", lambda *_, revision=None, **__: asked.append(revision)
    )
    options = {"revision": "v1", "cache_dir": None, "token": None, "trust_remote_code": False}
    source = ModelSource("someone/trained", "someone/trained", "someone/trained", options, {})
    model = source.load_model(AutoModelForSequenceClassification, tiny_model("bert").config)
    assert find_activations(model) is None
    assert asked == ["v1"]  # and not of main, where v1 has none
