"""The `AutoModel...` classes of transformers that load a model."""

from __future__ import annotations

from typing import Any

from transformers.models.auto import modeling_auto

# The Hub's name for the task of each class that users know; None where a class has several tasks.
PIPELINES: dict[str, str | None] = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": None,
    "AutoModelForImageClassification": "image-classification",
}


def auto_classes(model: Any) -> list[str]:
    """Return the names of the classes that map this model's config to this model's class."""
    names = [name for name in vars(modeling_auto) if name.startswith("AutoModel")]
    return [name for name in names if type(model) in _classes_of(name, model)]


def auto_class(model: Any) -> str:
    """Return the name of the class to load a model with, one that users know where there is one.

    A model that no `AutoModel...` class loads is loaded by its own class.
    """
    names = auto_classes(model) or [type(model).__name__]
    return next((name for name in names if name in PIPELINES), names[0])


def _classes_of(name: str, model: Any) -> tuple[Any, ...]:
    mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
    if mapping is None or type(model.config) not in mapping:
        return ()
    found = mapping[type(model.config)]
    return found if isinstance(found, tuple) else (found,)
