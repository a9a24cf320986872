"""Writes the model card of an export: only what is known of it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerBase

from hf_td.analysis.metrics import metric_label
from hf_td.analysis.plots import plot_curves
from hf_td.config import trained_with
from hf_td.hub.auto_classes import PIPELINES, auto_class
from hf_td.hub.card.info import CardInfo, is_metric
from hf_td.hub.card.metadata import hub_id, make_metadata
from hf_td.hub.card.removal import Removal
from hf_td.hub.card.text import FORMATS, limitations, versions, without_paths
from hf_td.hub.forms.form import Form, Place, loading_code
from hf_td.hub.sentences import TASKS, loads_sentences, sentence_way

README = "README.md"
PICTURE = "curve.png"
METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """The facts that an export knows of itself.

    Attributes:
        name: of the export's folder.
        form: that it is written in.
        removal: what pruning removed, counted before the model was cut.
        processing_class: the tokenizer or processor that was saved along.
        sentence_class: the class of sentence-transformers that loads the export, or None.
    """

    name: str
    form: Form
    removal: Removal
    processing_class: Any = None
    sentence_class: str | None = None


def write_card(
    folder: str | Path, model: Any, info: CardInfo | None, facts: ExportFacts
) -> ModelCard:
    """Write README.md into a folder, and the curve as a picture next to it.

    Args:
        folder: that holds the exported weights.
        model: as it was exported.
        info: what the caller knows of the model.
        facts: what the export knows.

    Returns:
        The card.

    Raises:
        ValueError: the model has another sparsity than `info.sparsity`.
    """
    info = info or CardInfo()
    info = replace(
        info,
        targeted_dropout=info.targeted_dropout or trained_with(model),
        dataset=_without_folder(info.dataset),
    )
    _check_sparsity(info, facts.removal)
    task = PIPELINES.get(auto_class(model))
    if facts.sentence_class is not None:
        task = TASKS[facts.sentence_class]
    pipeline = info.pipeline_tag or task
    name = info.name or facts.name
    library = "transformers" if facts.sentence_class is None else "sentence-transformers"
    data = make_metadata(name, info, facts.removal, pipeline, library)
    license = data.get("license")
    export = _about_model(Path(folder), model, info, facts)
    card = ModelCard.from_template(
        data,
        template_str=files("hf_td.hub.card")
        .joinpath("model_card.template")
        .read_text(encoding="utf-8"),
        metadata=data.to_yaml(),
        name=name,
        license=license,
        picture=_plot(Path(folder), name, info),
        limitations=limitations(info, facts.form, facts.removal, export["parameters"], license),
        versions=versions(),
        **export,
        **_about_training(info),
        **FORMATS,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    card.save(Path(folder) / README)
    return card


def _check_sparsity(info: CardInfo, removal: Removal, allowed: float = 0.02) -> None:
    point = info.exported_point
    if point is not None and abs(point.removed_prunable - removal.sparsity) > allowed:
        raise ValueError(
            f"the card would show the metrics of sparsity {point.sparsity}, where "
            f"{point.removed_prunable:.1%} of the prunable weights were removed, but "
            f"{removal.sparsity:.1%} of this model's are removed. Prune the model to that "
            "sparsity, or give the card another one."
        )


def _about_model(folder: Path, model: Any, info: CardInfo, facts: ExportFacts) -> dict[str, Any]:
    processor = None
    if facts.processing_class is not None:
        text = isinstance(facts.processing_class, PreTrainedTokenizerBase)
        processor = "AutoTokenizer" if text else "AutoProcessor"
    place = Place(name=facts.name, repo_id=info.repo_id, processor=processor)
    return {
        "architecture": type(model).__name__,
        "removal": facts.removal,
        "parameters": model.num_parameters(),
        "bytes": sum(path.stat().st_size for path in facts.form.weights(folder)),
        "how_to_load": _how_to_load(model, place, facts),
    }


def _how_to_load(model: Any, place: Place, facts: ExportFacts) -> str:
    of_form = facts.form.how_to_load(model, place)
    if facts.sentence_class is None or not loads_sentences(facts.form, model):
        return of_form
    way = sentence_way(model, facts.sentence_class)
    code = loading_code(way, replace(place, processor=None))
    return f"With its pooling and further modules:\n\n{code}\n\nThe encoder alone:\n\n{of_form}"


def _about_training(info: CardInfo) -> dict[str, Any]:
    environment = info.environment or {}
    return {
        "info": info,
        "command": None if info.command is None else without_paths(info.command),
        "base": _shown_base(info.base_model),
        "points": info.points,
        "metrics": {name: _metric_label(name, info) for name in _metric_names(info)},
        "latency": info.latency,
        "dropout": info.dropout_settings,
        "trained_on": _trained_on(environment),
        "commit": info.commit or environment.get("commit"),
    }


def _without_folder(dataset: str | None) -> str | None:
    """Return the name of a data set, of a local one without the path."""
    return Path(dataset).name if dataset is not None and Path(dataset).exists() else dataset


def _shown_base(base_model: str | Path | None) -> str | None:
    """Return the base model's id on the Hub, or the name of its folder without the path."""
    if base_model is None:
        return None
    return hub_id(base_model) or Path(base_model).resolve().name


def _metric_names(info: CardInfo) -> list[str]:
    values = [item for point in info.points for item in point.metrics.items()]
    return list(dict.fromkeys(name for name, value in values if is_metric(name, value)))


def _metric_label(name: str, info: CardInfo) -> str:
    return metric_label(name, lower_is_better=info.lower_is_better and name == info.metric)


def _trained_on(environment: Mapping[str, Any]) -> dict[str, str]:
    hardware = environment.get("hardware") or {}
    devices = hardware.get("gpus") or [hardware.get("cpu")]
    versions = environment.get("versions") or {}
    shown = {
        "hardware": ", ".join(filter(None, devices)),
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items() if v is not None),
    }
    return {what: text for what, text in shown.items() if text}


def _plot(folder: Path, name: str, info: CardInfo) -> str | None:
    """Plot the curve; return the name of the picture, or None where there is nothing to plot."""
    metric = info.metric
    if metric is None:
        return None
    values = {point.sparsity: point.metrics[metric] for point in info.points}
    curve = {s: value for s, value in values.items() if is_metric(metric, value)}
    if not curve:
        return None
    title = ", ".join(filter(None, (info.task, _shown_base(info.base_model)))) or name
    stem = folder / Path(PICTURE).stem
    _, drawing = plot_curves(
        {name: [curve]}, stem, metric=metric, title=title, lower_is_better=info.lower_is_better
    )
    drawing.unlink()  # the Hub shows the PNG
    return PICTURE
