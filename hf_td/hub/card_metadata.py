"""The metadata of a model card, in the words that the Hub understands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_td.hub.card_info import CardInfo, is_metric
from hf_td.hub.removal import Removal

# The Hub's name of what models of a class do; None where the class does not tell.
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
# What a model inherits from the card of its base model.
_INHERITED = ("license", "license_name", "license_link", "language")


def make_metadata(name: str, info: CardInfo, removal: Removal, pipeline: str | None) -> Any:
    """The front matter of a card; a fact that is not known is not there.

    Args:
        name: of the model.
        info: what the caller knows.
        removal: what is gone of the model.
        pipeline: the Hub's name of the task.
    """
    results = eval_results(info, pipeline)
    return ModelCardData(
        library_name="transformers",
        tags=_tags(info, removal),
        base_model=hub_id(info.base_model),
        base_model_relation=_relation(info),
        pipeline_tag=pipeline,
        datasets=_listed(hub_id(info.dataset)),
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
        model_name=name if results else None,
        **_inherited(info),
    )


def _tags(info: CardInfo, removal: Removal) -> list[str]:
    tags = ["hf_td"]
    if info.targeted_dropout is not None:
        tags.append("targeted-dropout")
    if removal.removed:
        form = "structured" if removal.structured else "unstructured"
        tags += ["pruned", f"{form}-sparsity"]
    return tags


def _relation(info: CardInfo) -> str | None:
    trained = info.training or info.targeted_dropout is not None
    return "finetune" if trained and hub_id(info.base_model) else None


def hub_id(name: str | Path | None) -> str | None:
    """The name if it can be that of a repository on the Hub; a local folder's name is None."""
    if not isinstance(name, str) or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _listed(value: str | None) -> list[str] | None:
    return None if value is None else [value]


def _inherited(info: CardInfo) -> dict[str, Any]:
    """Licence and language: as given, else those of the base model's own card."""
    own = {"license": info.license, "language": _plain(info.language)}
    found = _front_matter(info.base_model)
    if info.license is not None:  # then the name and the link of the other licence are not its
        found = {key: value for key, value in found.items() if not key.startswith("license")}
    known = {key: value for key, value in own.items() if value is not None}
    return {key: found[key] for key in _INHERITED if key in found} | known


def _plain(language: str | Sequence[str] | None) -> str | list[str] | None:
    return language if language is None or isinstance(language, str) else list(language)


def _front_matter(base_model: str | Path | None) -> dict[str, Any]:
    if base_model is None or not (Path(base_model) / "README.md").is_file():
        return {}
    card = ModelCard.load(Path(base_model) / "README.md", ignore_metadata_errors=True)
    return card.data.to_dict()


def eval_results(info: CardInfo, pipeline: str | None) -> list[EvalResult]:
    """One result for each metric at the exported sparsity, if it is known on which data."""
    point = info.exported_point
    if point is None or pipeline is None or info.dataset is None:
        return []
    return [
        EvalResult(
            task_type=pipeline,
            task_name=info.task,
            dataset_type=info.dataset,
            dataset_name=" ".join(filter(None, (info.dataset, info.dataset_config))),
            dataset_config=info.dataset_config,
            dataset_split=info.dataset_split,
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ')} at {point.sparsity:.0%} sparsity",
            metric_value=float(value),  # numpy's numbers are none to YAML
        )
        for metric, value in point.metrics.items()
        if is_metric(metric, value)
    ]
