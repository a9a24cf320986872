"""scripts/run_translation.py on sentences that are easy to translate, and on real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sacrebleu
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, EvalPrediction, Seq2SeqTrainer

from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.acceptability import generate
from hf_td.tasks.models import find_model
from hf_td.tasks.translation.task import (
    TRANSLATION,
    TranslationArguments,
    TranslationTrainer,
    translation_metrics,
    translation_task,
)
from hf_td.tasks.translation.vocabulary import train_tokenizer
from hf_td.training import TargetedDropoutSeq2SeqArguments, TargetedDropoutTrainer
from tests.programs import (
    argv_of,
    load_script,
    measured_the_same_by_two_processes,
    refusal,
    results_of,
    short_run,
)

run_translation = load_script("run_translation")

_OVERRIDES = (
    "d_model=32,encoder_layers=2,decoder_layers=2,encoder_ffn_dim=64,decoder_ffn_dim=64,"
    "encoder_attention_heads=4,decoder_attention_heads=4,scale_embedding=true,init_std=0.2"
)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    """Return English sentences and their translations: the same words in capitals."""
    sentences = generate(train_size=200)["train"]["sentence"]
    return [{"en": text, "de": text.upper()} for text in sentences]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pairs) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for name, rows in {"train": pairs[:150], "validation": pairs[150:170]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def options(folder, tmp_path) -> dict[str, Any]:
    """Return arguments of a run of a second."""
    return {
        "model_name_or_path": "new:marian",
        "config_overrides": _OVERRIDES,
        "dataset_name": folder,
        "vocabulary_size": 400,
        "max_steps": 2,
        "generation_max_length": 16,
        **short_run(tmp_path / "out"),
    }


def _task(options: dict[str, Any]) -> Any:
    kind: Any = TargetedDropoutSeq2SeqArguments
    arguments = parse_arguments(
        argv_of(options), TranslationArguments, training=kind, defaults=TRANSLATION
    )
    return translation_task(arguments, find_model(arguments.model))


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_writes_bleu_and_token_accuracy_at_every_sparsity(options, method):
    run_translation.main(argv_of({**options, "method": method}))
    results = results_of(options)
    assert (results["task"], results["metric"]) == ("translation from en to de", "bleu")
    (run,) = results["runs"]
    removed = [point["removed_prunable"] for point in run["curve"]]
    if method in (
        "movement",
        "random_subnetwork",
    ):  # their masks exceed the sparsities
        assert removed[0] == removed[1] > 0.5
    else:
        assert removed == [0, pytest.approx(0.5)]
    for point in run["curve"]:
        assert set(point["metrics"]) == {"loss", "bleu", "token_accuracy"}
        assert 0 <= point["metrics"]["token_accuracy"] <= 1
    saved = options["output_dir"] / run["model"]
    model = AutoModelForSeq2SeqLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.decode(tokenizer("the cat").input_ids) == " the cat</s>"


@pytest.mark.parametrize("new", ["bart", "t5"])
def test_other_encoder_decoders_are_trained(options, new):
    sizes = {
        "bart": _OVERRIDES.replace("scale_embedding=true,", ""),
        "t5": "d_model=32,num_layers=2,num_decoder_layers=2,d_ff=64,d_kv=8,num_heads=4",
    }
    changes = {"model_name_or_path": f"new:{new}", "config_overrides": sizes[new]}
    run_translation.main(argv_of({**options, **changes}))
    assert len(results_of(options)["summary"]) == 2


def test_a_saved_model_is_measured_with_its_own_tokenizer(options, tmp_path):
    run_translation.main(argv_of(options))
    first = results_of(options)["summary"]
    again = {
        **{name: value for name, value in options.items() if name != "config_overrides"},
        "model_name_or_path": options["output_dir"] / "seed-42",
        "output_dir": tmp_path / "again",
        "do_eval": True,
    }
    run_translation.main(argv_of(again))
    for before, after in zip(first, results_of(again)["summary"], strict=True):
        assert before["metrics"] == after["metrics"]


def test_an_export_of_a_translator_is_loaded(options):
    run_translation.main(argv_of({**options, "export_sparsity": 0.5}))
    export = options["output_dir"] / "seed-42" / "export"
    assert "| bleu |" in (export / "README.md").read_text()
    assert AutoModelForSeq2SeqLM.from_pretrained(export).num_parameters() > 0


def test_the_trainer_of_a_method_joins_the_family():
    method = METHODS["targeted_dropout"]
    joined = method.trainer_of(TranslationTrainer)
    assert issubclass(joined, TargetedDropoutTrainer)
    assert issubclass(joined, Seq2SeqTrainer)
    assert joined.prediction_step is TranslationTrainer.prediction_step
    assert joined.create_optimizer is TargetedDropoutTrainer.create_optimizer
    assert METHODS["none"].trainer_of(METHODS["none"].trainer) is METHODS["none"].trainer


# ---- metrics -----------------------------------------------------------------------------------


def test_metrics_are_those_of_hand_counts(pairs):
    tokenizer = train_tokenizer([row["en"] for row in pairs], 400)
    said = ["the cat sat on the mat today", "a dog"]
    true = ["the cat sat on the mat", "a dog barks"]
    generated = tokenizer(said, padding=True, return_tensors="np").input_ids
    labels = np.array([[5, 6, 1, -100], [7, 8, 9, 1]])
    predicted = np.array([[5, 9, 1, 3], [7, 8, 4, -100]])  # 2 of 3, and 2 of 4
    found = translation_metrics(
        EvalPrediction(cast(Any, (predicted, generated)), labels),
        tokenizer=tokenizer,
        references=true,
    )
    assert found["token_accuracy"] == pytest.approx(4 / 7)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score)
    perfect = tokenizer(true, padding=True, return_tensors="np").input_ids
    assert translation_metrics(
        EvalPrediction(cast(Any, (labels, perfect)), labels), tokenizer=tokenizer, references=true
    ) == {"bleu": pytest.approx(100), "token_accuracy": 1}


def test_evaluation_agrees_with_a_slow_loop(options):
    """Compute both metrics in a slow loop over sentences and tokens."""
    task = _task({**options, "max_eval_samples": 5})
    torch.manual_seed(0)
    model: Any = task.make_model().eval()
    right = total = 0
    texts = []
    for row in task.eval_data:
        source, labels = torch.tensor([row["input_ids"]]), row["labels"]
        for i, label in enumerate(labels):
            before = torch.tensor([[model.config.decoder_start_token_id, *labels[:i]]])
            token = model(source, decoder_input_ids=before).logits[0, -1].argmax()
            right, total = right + int(token == label), total + 1
        ids = model.generate(source, max_length=16, num_beams=1)[0]
        texts.append(task.processor.decode(ids, skip_special_tokens=True).strip())
    references = [row["de"] for row in _rows(options)][:5]
    trainer = _trainer(task, model, options)
    found = trainer.evaluate()
    assert found["eval_token_accuracy"] == pytest.approx(right / total)
    assert found["eval_bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)


def test_sentences_are_translated_in_the_order_of_their_references(options):
    task = _task({**options, "max_eval_samples": 8})
    settings = {"train_sampling_strategy": "group_by_length"}  # the stock Trainer shuffles with it
    trainer = _trainer(task, task.make_model(), options, **settings)
    labels = trainer.predict(task.eval_data).label_ids
    for row, given in zip(task.eval_data, labels, strict=True):
        assert given[given != -100].tolist() == row["labels"]


def _trainer(task: Any, model: Any, options: dict[str, Any], **settings: Any) -> Any:
    return METHODS["none"].trainer_of(task.trainer_family)(
        model=model,
        args=TargetedDropoutSeq2SeqArguments(
            options["output_dir"],
            predict_with_generate=True,
            generation_max_length=16,
            per_device_eval_batch_size=2,
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        ),
        eval_dataset=task.eval_data,
        processing_class=task.processor,
        data_collator=task.collator,
        compute_metrics=task.compute_metrics,
    )


def _rows(options: dict[str, Any]) -> list[dict[str, str]]:
    lines = (options["dataset_name"] / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# ---- data --------------------------------------------------------------------------------------


def test_sentences_become_tokens_and_shifted_targets(options, pairs):
    task = _task(options)
    tokenizer = task.processor
    row = task.train_data[3]
    assert tokenizer.decode(row["input_ids"]) == f" {pairs[3]['en']}</s>"
    assert tokenizer.decode(row["labels"]) == f" {pairs[3]['de']}</s>"
    batch = task.collator([task.train_data[i] for i in range(4)])
    start = torch.full((4, 1), tokenizer.pad_token_id)
    shifted = torch.cat([start, batch["labels"][:, :-1]], 1)
    shifted = shifted.masked_fill(shifted == -100, tokenizer.pad_token_id)
    assert torch.equal(batch["decoder_input_ids"], shifted)


def test_pairs_in_one_column_are_the_same(options, folder, tmp_path):
    for name in ("train", "validation"):
        rows = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        lines = (json.dumps({"translation": row}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    nested, flat = _task({**options, "dataset_name": tmp_path}), _task(options)
    assert nested.train_data.to_list() == flat.train_data.to_list()


def test_languages_can_be_exchanged(options, pairs):
    task = _task({**options, "source_language": "de", "target_language": "en"})
    assert task.processor.decode(task.train_data[0]["labels"]) == f" {pairs[0]['en']}</s>"


def test_a_vocabulary_knows_every_text():
    tokenizer = train_tokenizer(["a few words"], 300)
    text = "Grüße, 世界 🦉"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == f" {text}"
    assert len(tokenizer) <= 300


def test_a_vocabulary_has_the_size_that_was_asked_for(pairs):
    words = [text for row in pairs for text in row.values()]
    assert len(train_tokenizer(words, 400)) == 400


@pytest.mark.slow
def test_a_few_pairs_are_learnt_by_heart(options):
    options |= {"max_steps": 900, "learning_rate": 5e-3, "level": "weight", "sparsities": [0]}
    options |= {"validation_split": "train[:20]", "generation_max_length": 64}
    run_translation.main(argv_of({**options, "method": "none"}))
    (point,) = results_of(options)["summary"]
    assert point["metrics"]["bleu"]["mean"] > 50
    assert point["metrics"]["token_accuracy"]["mean"] > 0.8


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_language": "fr"}, "split has no column fr. It has en, de. Name the columns"),
        ({"vocabulary_size": 100}, "a vocabulary of 100 tokens is too small. Give at least 258"),
        ({"max_length": 1025}, "max_length is 1025. The model takes 2 to 1024 tokens"),
        ({"max_length": 1}, "max_length is 1. The model takes 2 to 1024"),
        ({"predict_with_generate": False}, "--predict_with_generate is off"),
        ({"model_name_or_path": "new:bert", "config_overrides": ""}, "cannot do this task"),
        ({"dataset_name": "./nowhere"}, "the folder ./nowhere does not exist"),
        ({"max_eval_samples": 0}, "max_eval_samples must be at least 1"),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in refusal(run_translation, {**options, **wrong}, capsys)


# ---- pages -------------------------------------------------------------------------------------


def test_settings_of_one_method_are_compared_by_labels_in_both_metrics(options, tmp_path):
    outputs = [tmp_path / name for name in ("low", "high")]
    for output, targeting in zip(outputs, (0.5, 0.9), strict=True):
        run_translation.main(argv_of({**options, "targeting": targeting, "output_dir": output}))
    page = {"title": "T", "output": tmp_path / "page", "metrics": ["bleu", "token_accuracy"]}
    results = [str(output / "results.json") for output in outputs]
    compare = load_script("compare")
    compare.main([*results, *argv_of({**page, "labels": [".5", ".9"]})])
    text = (tmp_path / "page.md").read_text()
    heads = "| sparsity asked for | of the prunable weights | of all parameters | .5 | .9 |"
    assert " ".join(text.split()).count(heads) == 2
    for output, label in zip(outputs, (".5", ".9"), strict=True):
        point = results_of({"output_dir": output})["summary"][1]["metrics"]["token_accuracy"]
        assert f"{point['mean']:.4f}" in text
        assert label in (tmp_path / "page.svg").read_text()
    refused = {**page, "labels": ["same", "same"]}
    with pytest.raises(UsageError, match="2 different ones"):
        compare.main([*results, *argv_of(refused)])
    with pytest.raises(UsageError, match="--metrics are of loss, bleu, token_accuracy; got speed"):
        compare.main([*results, *argv_of({**page, "metrics": ["speed"]})])


@pytest.mark.slow
def test_two_processes_measure_what_one_does(options):
    measured_the_same_by_two_processes("run_translation", options)
