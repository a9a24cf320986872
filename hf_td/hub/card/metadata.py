"""The metadata of a model card, in the Hub's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_td.analysis import CurvePoint
from hf_td.hub.card.info import CardInfo, is_metric
from hf_td.hub.card.removal import Removal

# The fields that a model inherits from the card of its base model.
_INHERITED = ("license", "license_name", "license_link", "language")


def make_metadata(
    name: str, info: CardInfo, removal: Removal, pipeline: str | None, library: str
) -> Any:
    """Return the front matter of a card, without fields for unknown facts.

    Args:
        name: of the model.
        info: what the caller knows.
        removal: what was removed.
        pipeline: the Hub's name of the task.
        library: the Hub's name of the library that loads the model.
    """
    results = eval_results(info, pipeline)
    return ModelCardData(
        library_name=library,
        tags=_tags(info, removal),
        base_model=hub_id(info.base_model),
        base_model_relation=_relation(info),
        pipeline_tag=pipeline,
        datasets=[dataset] if (dataset := hub_id(info.dataset)) else None,
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
    """Return a name that can be that of a repository on the Hub, else None. Asks no Hub.

    The name of an existing local folder is None.
    """
    if not isinstance(name, str) or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _inherited(info: CardInfo) -> dict[str, Any]:
    """Return the given licence and language, else those of the base model's card."""
    language = info.language
    if language is not None and not isinstance(language, str):
        language = list(language)
    own = {"license": info.license, "language": language}
    found = _front_matter(info.base_model)
    if info.license is not None:  # its name and link are those of the other licence
        found = {key: value for key, value in found.items() if not key.startswith("license")}
    known = {key: value for key, value in own.items() if value is not None}
    return {key: found[key] for key in _INHERITED if key in found} | known


def _front_matter(base_model: str | Path | None) -> dict[str, Any]:
    if base_model is None or not (Path(base_model) / "README.md").is_file():
        return {}
    card = ModelCard.load(Path(base_model) / "README.md", ignore_metadata_errors=True)
    return card.data.to_dict()


def _sparsity(point: CurvePoint) -> str:
    """Return the sparsity that was asked for, and the removed share where it is another."""
    asked, got = f"{point.sparsity:.0%}", f"{point.removed_prunable:.0%}"
    return asked if asked == got else f"{asked} ({got} removed)"


def eval_results(info: CardInfo, pipeline: str | None) -> list[EvalResult]:
    """Return a result for each metric at the exported sparsity; none where the data are unknown."""
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
            metric_name=f"{metric.replace('_', ' ')} at {_sparsity(point)} sparsity",
            metric_value=float(value),  # YAML does not know numpy's numbers
        )
        for metric, value in point.metrics.items()
        if is_metric(metric, value)
    ]
