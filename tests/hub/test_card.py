"""A model card states facts, and leaves out what is not known."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedTokenizerFast

import hf_td
from hf_td.analysis import CurvePoint, pruning_curve
from hf_td.analysis.timing import Quartiles
from hf_td.config import CONFIG_KEY, TargetedDropoutConfig
from hf_td.hub import CardInfo, TextSample, export_model
from hf_td.hub.card.latency import Latency
from tests.tiny import tiny_inputs, tiny_model

UNITS = TargetedDropoutConfig(level="unit", importance="magnitude", targeting=0.75, seed=3)
LATENCY = Latency(
    dense=Quartiles(median=12.5, low=12.0, high=13.25),
    compact=Quartiles(median=5.0, low=4.75, high=6.0),
    shape=(8, 128),
    runs=40,
    threads=4,
    dtype="float32",
    hardware="Some CPU",
)
ENVIRONMENT = {
    "versions": {"hf_td": "9.8.7", "torch": "7.6.5", "datasets": None},
    "hardware": {"cpu": "Some CPU", "gpus": ["Some GPU", "Some GPU"]},
    "commit": "abc123",
}


def pruned(level: str = "unit", sparsity: float = 0.5) -> Any:
    model = tiny_model("bert")
    hf_td.prune_model(model, sparsity, level=level)
    return model


@pytest.fixture(scope="module")
def curve() -> list[CurvePoint]:
    scores = iter([0.9, 0.85, 0.8125, 0.4])
    return pruning_curve(
        tiny_model("bert"),
        [0, 0.25, 0.5, 0.75],
        lambda _: {"accuracy": next(scores), "f1_score": 0.5, "loss": 0.7},
        UNITS,
    )


@pytest.fixture
def known(curve: list[CurvePoint]) -> CardInfo:
    return CardInfo(
        repo_id="someone/half",
        base_model="google-bert/bert-base-uncased",
        task="paraphrases",
        dataset="nyu-mll/glue",
        dataset_config="mrpc",
        dataset_split="validation",
        metric="accuracy",
        curve=curve,
        sparsity=0.5,
        license="apache-2.0",
        language=["en", "de"],
        targeted_dropout=UNITS,
        learning_rate=2e-5,
        epochs=3,
        seed=11,
        environment=ENVIRONMENT,
        command="python scripts/run_glue.py --task_name mrpc",
        latency=LATENCY,
        limitations=["It has seen news only."],
    )


def export(model: Any, folder: Path, card: CardInfo | None = None, **options: Any) -> ModelCard:
    export_model(model, folder, check=False, card=card, **options)
    return ModelCard.load(folder / "README.md")


def test_the_card_shows_what_a_language_model_writes_before_and_after_pruning(tmp_path):
    sample = TextSample(prompt="A = 1\n|x|", dense="two <unk>", pruned="three\n four")
    card = export(tiny_model("llama"), tmp_path / "writer", CardInfo(sample=sample))
    assert "| beginning | A = 1 \\|x\\| |" in card.text
    assert "| before pruning | two &lt;unk> |" in card.text
    assert "| this model | three four |" in card.text
    plain = export(tiny_model("llama"), tmp_path / "plain")
    assert "What it writes" not in plain.text


def results_of(card: ModelCard) -> Any:
    data: Any = card.data
    return data.eval_results


def front_matter(card: ModelCard) -> dict[str, Any]:
    return card.data.to_dict()


# The metadata.


def test_the_metadata_says_what_is_known(known, tmp_path):
    found = front_matter(export(pruned(), tmp_path / "half", known, form="compact"))
    results = found.pop("model-index")
    assert found == {
        "library_name": "transformers",
        "tags": ["hf_td", "targeted-dropout", "pruned", "structured-sparsity"],
        "base_model": "google-bert/bert-base-uncased",
        "base_model_relation": "finetune",
        "pipeline_tag": "text-classification",
        "datasets": ["nyu-mll/glue"],
        "metrics": ["accuracy", "f1_score"],
        "language": ["en", "de"],
        "license": "apache-2.0",
    }
    assert results[0]["name"] == "half"


def test_the_results_are_those_of_the_exported_sparsity(known, tmp_path):
    card = export(pruned(), tmp_path / "half", known, form="compact")
    first, second = results_of(card)
    assert (first.metric_type, first.metric_value) == ("accuracy", 0.8125)
    assert (second.metric_type, second.metric_value) == ("f1_score", 0.5)
    for result in (first, second):
        assert result.task_type == "text-classification"
        assert result.task_name == "paraphrases"
        assert result.dataset_type == "nyu-mll/glue"
        assert result.dataset_config == "mrpc"
        assert result.dataset_split == "validation"
    assert first.metric_name == "accuracy at 50% sparsity"


def test_without_facts_the_metadata_is_what_the_model_shows(tmp_path):
    assert front_matter(export(pruned(), tmp_path / "bare", form="compact")) == {
        "library_name": "transformers",
        "tags": ["hf_td", "pruned", "structured-sparsity"],
        "pipeline_tag": "text-classification",
    }


def test_results_need_data_and_a_finite_value(known, curve, tmp_path):
    broken = [replace(p, metrics={"accuracy": None, "f1_score": 0.5}) for p in curve]
    card = export(pruned(), tmp_path / "a", replace(known, curve=broken), form="compact")
    assert [result.metric_type for result in results_of(card)] == ["f1_score"]
    assert "not finite" not in card.text  # a metric that is finite nowhere has no column
    card = export(pruned(), tmp_path / "b", replace(known, dataset=None), form="compact")
    assert results_of(card) is None


def test_numbers_of_numpy_are_numbers(known, curve, tmp_path):
    metrics = {"accuracy": np.float64(0.25), "f1_score": np.float32(0.5)}
    point = replace(curve[2], metrics=metrics)
    card = export(pruned(), tmp_path / "a", replace(known, curve=[point]), form="compact")
    assert [result.metric_value for result in results_of(card)] == [0.25, 0.5]


def test_the_pipeline_can_be_given(tmp_path):
    card = export(pruned(), tmp_path / "a", CardInfo(pipeline_tag="text-ranking"), form="compact")
    assert front_matter(card)["pipeline_tag"] == "text-ranking"


@pytest.mark.parametrize(
    ("family", "tag", "auto"),
    [
        ("gpt2", "text-generation", "AutoModelForCausalLM"),
        ("vit", "image-classification", "AutoModelForImageClassification"),
        ("t5", None, "AutoModelForSeq2SeqLM"),
    ],
)
def test_the_class_of_the_model_tells_its_task(family, tag, auto, tmp_path):
    card = export(tiny_model(family), tmp_path / family, form="compact")
    assert front_matter(card).get("pipeline_tag") == tag
    assert f"{auto}.from_pretrained(model_id)" in card.text
    assert "pruned" not in front_matter(card)["tags"]


def test_the_settings_that_a_model_records_are_used(tmp_path):
    model = pruned()
    setattr(model.config, CONFIG_KEY, UNITS.to_dict())
    card = export(model, tmp_path / "a", form="compact")
    assert "targeted-dropout" in front_matter(card)["tags"]
    assert "at the unit level, with a targeting of 0.75" in card.text
    assert '"seed": 3' in card.text


# Licence and base model.


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "secret-place" / "base"
    folder.mkdir(parents=True)
    text = "---\nlicense: other\nlicense_name: odd\nlanguage: fr\ntags: [a]\n---\n# Base\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_licence_and_language_are_inherited_from_a_local_base_model(base, tmp_path):
    card = export(pruned(), tmp_path / "a", CardInfo(base_model=base), form="compact")
    found = front_matter(card)
    assert (found["license"], found["license_name"], found["language"]) == ("other", "odd", "fr")
    assert "| licence | other |" in card.text


def test_a_licence_that_is_given_replaces_the_whole_of_the_other(base, tmp_path):
    info = CardInfo(base_model=str(base), license="mit", language="en")
    found = front_matter(export(pruned(), tmp_path / "a", info, form="compact"))
    assert (found["license"], found["language"]) == ("mit", "en")
    assert "license_name" not in found


def test_where_a_local_base_model_lies_is_not_told(base, tmp_path):
    card = export(pruned(), tmp_path / "a", CardInfo(base_model=str(base)), form="compact")
    assert "base_model" not in front_matter(card)
    assert "| base model | base |" in card.text
    assert "secret-place" not in card.content


def test_an_unknown_licence_is_called_so(tmp_path):
    card = export(pruned(), tmp_path / "a", CardInfo(base_model="a/b"), form="compact")
    assert "license" not in front_matter(card)
    assert "| licence | unknown |" in card.text
    assert "Its licence is unknown." in card.text


# The numbers in the text.


def row(card: ModelCard, name: str) -> list[str]:
    """Return the cells of a line of a table."""
    (line,) = [line for line in card.text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def zeros(model: nn.Module) -> tuple[int, int]:
    """Count the zeros and the weights of a tiny BERT's projections, found by their names."""
    weights = [
        parameter
        for name, parameter in model.named_parameters()
        if "encoder.layer" in name and parameter.ndim == 2
    ]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)


@pytest.mark.parametrize(("level", "form"), [("unit", "compact"), ("weight", "padded")])
def test_the_card_counts_what_is_gone_before_the_cut(level, form, tmp_path):
    model = pruned(level)
    card = export(model, tmp_path / "a", form=form)
    gone, prunable = zeros(model)
    every = sum(p.numel() for p in model.parameters())
    shown = f"{gone / prunable:.1%} ({gone:,} of {prunable:,})"
    assert row(card, "removed of the prunable weights") == [shown]
    assert row(card, "removed of all parameters") == [f"{gone / every:.1%}"]
    assert row(card, "what was removed") == [
        "whole heads or neurons" if level == "unit" else "single weights"
    ]
    assert ("stored as zeros" in card.text) == (form == "padded")
    form_tag = "structured-sparsity" if level == "unit" else "unstructured-sparsity"
    assert form_tag in front_matter(card)["tags"]


def test_a_model_that_is_compact_already_gives_the_same_counts(tmp_path):
    model = pruned()
    masked = export(model, tmp_path / "masked", form="compact")
    compact = export(hf_td.compact_model(model), tmp_path / "compact", form="compact")
    for name in ("removed of the prunable weights", "removed of all parameters", "parameters"):
        assert row(masked, name) == row(compact, name)
    assert row(masked, "weights")[1] == row(compact, "weights")[1]


def test_the_card_shows_the_sizes(tmp_path):
    model = pruned()
    card = export(model, tmp_path / "a", form="compact")
    small = hf_td.compact_model(copy.deepcopy(model)).num_parameters()
    on_disk = (tmp_path / "a" / "model.safetensors").stat().st_size
    assert row(card, "parameters") == [f"{small:,}", f"{model.num_parameters():,}"]
    dense = f"{4 * model.num_parameters() / 1e6:.2f} MB, computed"
    assert row(card, "weights") == [f"{on_disk / 1e6:.2f} MB on disk", dense]


def test_the_card_shows_the_metric_at_every_sparsity(known, curve, tmp_path):
    card = export(pruned(), tmp_path / "half", known, form="compact")
    assert row(card, "sparsity asked for")[2:] == ["accuracy", "f1 score"]  # and no loss
    for point in curve:
        here = " (this model)" if point.sparsity == 0.5 else ""
        assert row(card, f"{point.sparsity:.1%}{here}") == [
            f"{point.removed_prunable:.1%}",
            f"{point.removed_of_all:.1%}",
            f"{point.metrics['accuracy']:.4f}",
            "0.5000",
        ]


def test_the_curve_is_shown_as_a_picture(known, tmp_path):
    card = export(pruned(), tmp_path / "half", known, form="compact")
    assert "![accuracy at every sparsity](curve.png)" in card.text
    assert (tmp_path / "half" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "half" / "curve.svg").exists()


def test_the_curve_may_come_from_a_record(known, curve, tmp_path):
    recorded = replace(known, curve=[asdict(point) for point in reversed(curve)])
    cards = [
        export(pruned(), tmp_path / folder / "half", info, form="compact").content
        for folder, info in (("a", known), ("b", recorded))
    ]
    assert cards[0] == cards[1]


def test_the_card_shows_speed_training_and_how_to_repeat_it(known, tmp_path):
    text = export(pruned(), tmp_path / "half", known, form="compact").text
    assert "Input of shape 8 x 128, float32, Some CPU, 4 threads; 40 forwards" in text
    assert "| dense | 12.50 ms | 12.00 to 13.25 ms |" in text
    assert "| this model | 5.00 ms | 4.75 to 6.00 ms |" in text
    assert "2.50 times the speed of the dense one" in text
    assert "at the unit level, with a targeting of 0.75 and a drop rate of 1.0" in text
    assert "- learning rate: 2e-05\n- epochs: 3\n- seed: 11\n" in text
    assert "- hardware: Some GPU, Some GPU\n- versions: hf_td 9.8.7, torch 7.6.5\n" in text
    assert "```\npython scripts/run_glue.py --task_name mrpc\n```" in text
    assert "Commit of hf_td: `abc123`" in text
    assert "- It has seen news only.\n" in text


def test_parts_whose_facts_are_missing_are_left_out(tmp_path):
    text = export(pruned(), tmp_path / "bare", form="compact").text
    headings = re.findall("^## (.*)$", text, re.MULTILINE)
    assert headings == ["Size", "How to load it", "Limitations"]
    assert not re.search("None|nan|undefined|base model|accuracy", text)
    assert "No metric was recorded with it." in text
    assert "Its speed was not measured." in text
    assert "\n\n\n" not in text
    assert not (tmp_path / "bare" / "curve.png").exists()


# How to load it: the card's own code is run.


@pytest.mark.parametrize(("form", "imports"), [("compact", True), ("padded", False)])
def test_the_code_of_the_card_loads_the_model(form, imports, tmp_path, monkeypatch):
    model = pruned()
    card = export(model, tmp_path / "half", form=form)
    monkeypatch.chdir(tmp_path)
    first, *others = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
    assert ("import hf_td" in first) == imports
    assert len(others) == imports  # with trust_remote_code
    place: dict[str, Any] = {}
    exec(first, place)
    inputs = tiny_inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(place["model"](**inputs).logits, model(**inputs).logits)


def test_the_code_names_the_repository_and_the_tokenizer(known, tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    options = {"processing_class": tokenizer, "form": "compact"}
    text = export(pruned(), tmp_path / "half", known, **options).text
    assert "import AutoModelForSequenceClassification, AutoTokenizer" in text
    assert 'model_id = "someone/half"' in text
    assert "\ntokenizer = AutoTokenizer.from_pretrained(model_id)\n```" in text


# What is refused.


def test_facts_that_do_not_fit_each_other_are_refused(curve):
    with pytest.raises(ValueError, match=r"metric 'bleu' is not in the curve.*accuracy"):
        CardInfo(curve=curve, metric="bleu")
    with pytest.raises(ValueError, match=r"sparsity 0\.6 is no point of the curve"):
        CardInfo(curve=curve, sparsity=0.6)


def test_a_card_for_another_sparsity_than_the_models_is_refused(known, tmp_path):
    wrong = replace(known, sparsity=0.75)
    with pytest.raises(ValueError, match=r"where 75\.0% .* removed, but 50\.0% of this model's"):
        export(pruned(), tmp_path / "half", wrong, form="compact")
    assert not (tmp_path / "half").exists()


def test_importing_the_room_loads_neither_torch_nor_transformers():
    code = "import sys, hf_td.hub; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_rows_are_shown_and_folders_are_not(known, tmp_path):
    (tmp_path / "mine").mkdir()
    given = replace(
        known,
        dataset=str(tmp_path / "mine"),
        trained_rows=4000,
        measured_rows=872,
        command=f"python run.py --output_dir={tmp_path}/out --teacher {tmp_path} --level unit",
    )
    card = export(pruned(), tmp_path / "half", given, form="compact")
    assert row(card, "rows trained on") == ["4,000"]
    assert row(card, "rows measured on") == ["872"]
    assert str(tmp_path) not in card.content
    shown = f"python run.py --output_dir=path/to/out --teacher path/to/{tmp_path.name} --level unit"
    assert shown in card.text


def test_a_sparsity_that_was_not_reached_is_shown_beside_the_one_that_was_asked_for(
    known, tmp_path
):
    points = [replace(point, removed_prunable=0.49) for point in known.points]
    card = export(pruned(), tmp_path / "half", replace(known, curve=points), form="compact")
    assert results_of(card)[0].metric_name == "accuracy at 50% (49% removed) sparsity"
    assert "| sparsity asked for | of the prunable weights |" in card.text
