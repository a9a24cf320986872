"""scripts/run_clm.py on a tiny random Llama, and on a real one if it is available."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_td.analysis.metrics import metric_value
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.acceptability import generate
from hf_td.tasks.language_modelling.self_text import write
from hf_td.tasks.language_modelling.task import (
    LanguageModellingArguments,
    language_modelling_task,
    token_losses,
)
from hf_td.tasks.models import find_model
from tests.programs import (
    argv_of,
    load_script,
    measured_the_same_by_two_processes,
    refusal,
    results_of,
    short_run,
)
from tests.tiny import SIZES

run_clm = load_script("run_clm")


@pytest.fixture(scope="module")
def text() -> list[str]:
    """Return a thousand words."""
    return [f"{sentence}\n" for sentence in generate(train_size=200)["train"]["sentence"]]


@pytest.fixture(scope="module")
def tokenizer(text) -> PreTrainedTokenizerFast:
    words = sorted({word for line in text for word in line.split()})
    vocabulary = {w: i for i, w in enumerate(["[UNK]", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer) -> Path:
    """Return the folder of a tiny random Llama with grouped queries."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            **SIZES,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.5,  # so that the model's text is not uniform noise
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text) -> Path:
    """Return the folder of a text in two files."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text("".join(text[:150]))
    (folder / "validation.txt").write_text("".join(text[150:]))
    return folder


@pytest.fixture
def options(model, folder, tmp_path) -> dict[str, Any]:
    """Return arguments of a run of a second."""
    return {
        "model_name_or_path": model,
        "dataset_name": folder,
        "block_size": 16,
        "num_train_epochs": 1,
        **short_run(tmp_path / "out"),
    }


def _task(options: dict[str, Any]) -> Any:
    arguments = parse_arguments(argv_of(options), LanguageModellingArguments)
    return language_modelling_task(arguments, find_model(arguments.model))


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_writes_the_perplexity_at_every_sparsity(options, method, capsys):
    run_clm.main(argv_of({**options, "method": method, "per_device_eval_batch_size": 999}))
    results = results_of(options)
    assert (results["task"], results["metric"]) == ("language modelling", "perplexity")
    assert results["lower_is_better"] is True
    (run,) = results["runs"]
    assert [point["removed_prunable"] for point in run["curve"]] == [0, pytest.approx(0.5)]
    for point in run["curve"]:
        metrics = point["metrics"]
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]), rel=1e-4)
    saved = AutoModelForCausalLM.from_pretrained(options["output_dir"] / run["model"])
    assert type(saved) is LlamaForCausalLM
    assert "perplexity (lower is better)" in (options["output_dir"] / "curve.svg").read_text()
    assert "(lower is" in capsys.readouterr().out


def test_training_lowers_the_perplexity(options):
    run_clm.main(argv_of({**options, "num_train_epochs": 10, "learning_rate": 0.003}))
    trained = results_of(options)["summary"][0]["metrics"]["perplexity"]["mean"]
    run_clm.main(argv_of({**options, "do_eval": True, "overwrite_output": True}))
    assert trained < 0.5 * results_of(options)["summary"][0]["metrics"]["perplexity"]["mean"]


def test_the_best_model_is_the_one_of_the_lowest_perplexity(options):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "perplexity"}
    steps = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    run_clm.main(argv_of({**options, **best, **steps, "learning_rate": 0.003}))
    states = options["output_dir"].glob("seed-42/checkpoint-*/trainer_state.json")
    found = max((json.loads(path.read_text()) for path in states), key=lambda s: s["global_step"])
    measured = [e["eval_perplexity"] for e in found["log_history"] if "eval_perplexity" in e]
    assert len(measured) == 3
    assert found["best_metric"] == min(measured) < max(measured)


def test_losses_are_those_of_a_slow_loop():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 7), torch.randint(7, (2, 4))
    slow = torch.tensor(
        [
            [-math.log(torch.softmax(row[i], 0)[tokens[i + 1]]) for i in range(3)]
            for row, tokens in zip(logits, labels, strict=True)
        ]
    )
    torch.testing.assert_close(token_losses(logits, labels), slow)
    torch.testing.assert_close(token_losses((logits, "cache"), labels), slow)


def test_an_untrained_model_of_a_type_is_trained(options):
    new = {"model_name_or_path": "new:gpt2", "tokenizer_name": options["model_name_or_path"]}
    new["config_overrides"] = "n_embd=32,n_layer=2,n_head=4,vocab_size=500"
    run_clm.main(argv_of({**options, **new}))
    saved = AutoModelForCausalLM.from_pretrained(options["output_dir"] / "seed-42")
    assert saved.config.n_embd == 32


def test_an_export_has_a_card_that_tells_the_direction(options):
    run_clm.main(argv_of({**options, "export_sparsity": 0.5}))
    export = options["output_dir"] / "seed-42" / "export"
    assert "| perplexity (lower is better) |" in (export / "README.md").read_text()
    saved = AutoModelForCausalLM.from_pretrained(export)
    assert saved.model.layers[0].mlp.up_proj.out_features == 32


def test_the_card_of_an_export_shows_both_texts_and_every_perplexity(options):
    run_clm.main(argv_of({**options, "export_sparsity": 0.5}))
    folder = options["output_dir"] / "seed-42"
    card = (folder / "export" / "README.md").read_text()
    task = _task({**options, "model_name_or_path": folder})
    prompt, dense = task.continue_text(AutoModelForCausalLM.from_pretrained(folder))
    _, pruned = task.continue_text(AutoModelForCausalLM.from_pretrained(folder / "export"))
    assert dense != pruned
    for name, text in (("beginning", prompt), ("before pruning", dense), ("this model", pruned)):
        shown = " ".join(text.split()).replace("<", "&lt;")
        assert f"| {name} | {shown} |" in card
    for point in results_of(options)["summary"]:
        assert f"| {metric_value(point['metrics']['perplexity']['mean'])} |" in card


@pytest.mark.parametrize(
    ("parts", "removed"),
    [
        ({"feed_forward_level": "none"}, 1 / 6),  # a third of the weights is that of KV groups
        ({"attention_level": "none"}, 1 / 3),
        ({"level": "weight"}, 1 / 2),
        ({"level": "weight", "pattern": "2:4"}, 1 / 2),
        ({"activation_checkpointing": True}, 1 / 2),
        ({"bf16": True}, 1 / 2),
    ],
    ids=str,
)
def test_every_part_and_way_of_training_gives_a_curve(options, parts, removed):
    """KV groups alone, neurons alone, single weights, 2:4, checkpointed activations, bf16."""
    run_clm.main(argv_of({**options, "recipe": "language_model", **parts}))
    points = results_of(options)["summary"]
    assert [point["sparsity"] for point in points] == [0, 0.5]
    assert points[1]["removed_prunable"] == pytest.approx(removed, abs=0.01)
    assert all(math.isfinite(point["metrics"]["perplexity"]["mean"]) for point in points)


def test_checkpointed_activations_change_no_weight(options, tmp_path):
    weights = []
    for name in ("plain", "checkpointed"):
        extra = {"output_dir": tmp_path / name, "activation_checkpointing": name == "checkpointed"}
        run_clm.main(argv_of({**options, **extra}))
        weights.append(load_file(tmp_path / name / "seed-42" / "model.safetensors"))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_the_recipe_of_language_models_has_its_own_defaults(options):
    recipe = {"recipe": "language_model", "model_name_or_path": "x"}
    arguments = parse_arguments(argv_of({**options, **recipe}), LanguageModellingArguments)
    assert arguments.training.targeted_dropout().targeting == 0.5
    assert arguments.training.untargeted_lr_scale == 1
    assert arguments.curve.dense_epochs == 0
    plain = parse_arguments(argv_of(options), LanguageModellingArguments)
    assert arguments.training.learning_rate == 3e-4
    assert plain.training.learning_rate == 2e-4


def test_fewer_calibration_rows_are_used(options):
    options |= {"method": "none", "do_eval": True, "importance": "activation"}
    task, few = (
        _task(options),
        parse_arguments(argv_of({**options, "calibration_samples": 3}), LanguageModellingArguments),
    )
    (batch,) = how_to_prune(task.make_model(), task, few)["calibration"]
    assert batch["input_ids"].shape == (3, 16)


def test_runs_are_compared(options, tmp_path):
    outputs = [tmp_path / method for method in ("none", "targeted_dropout")]
    for output in outputs:
        run_clm.main(argv_of({**options, "method": output.name, "output_dir": output}))
    stem = tmp_path / "page"
    results = [str(output / "results.json") for output in outputs]
    load_script("compare").main([*results, "--title", "T", "--output", str(stem)])
    page = stem.with_suffix(".md").read_text()
    assert "perplexity (lower is better) on the validation split" in page
    assert "| 50% |" in " ".join(page.split())


# ---- data --------------------------------------------------------------------------------------


def test_text_is_cut_into_blocks(options, text, tokenizer):
    task = _task(options)
    tokens = tokenizer(" ".join(text[:150])).input_ids
    blocks = task.train_data
    assert len(blocks) == len(tokens) // 16
    assert blocks[1]["input_ids"].tolist() == tokens[16:32]
    assert blocks[1]["labels"].tolist() == tokens[16:32]
    assert len(task.eval_data) > 1


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_one_file_is_divided(options, text, tmp_path, kind):
    file = tmp_path / f"book.{kind}"
    rows = datasets.Dataset.from_dict({"line": text})
    if kind == "txt":
        file.write_text("".join(text))
    else:
        {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[kind](file)
    column = "text" if kind == "txt" else "line"
    parts = {"train_split": "train[:75%]", "validation_split": "train[75%:]"}
    divided = _task({**options, "dataset_name": file, "text_column": column, **parts})
    whole = _task(options)
    for name in ("train_data", "eval_data"):
        ours, theirs = getattr(divided, name), getattr(whole, name)
        assert torch.equal(ours[:]["input_ids"], theirs[:]["input_ids"])


def test_line_breaks_of_text_are_kept(options, stories_folder, folder):
    task = _task({**options, "model_name_or_path": stories_folder})
    line = AutoTokenizer.from_pretrained(stories_folder)("\n").input_ids[-1]
    tokens = task.train_data[:]["input_ids"]
    lines = (folder / "train.txt").read_text().count("\n")
    assert 0 <= lines - int((tokens == line).sum()) <= 1  # the last line is in an incomplete block


def test_samples_are_blocks(options):
    task = _task({**options, "max_train_samples": 3, "max_eval_samples": 2})
    assert (len(task.train_data), len(task.eval_data)) == (3, 2)


def test_the_splits_of_text_that_the_model_writes_differ(options):
    options |= {"dataset_name": "self", "self_tokens": 4000}
    first, again = _task(options), _task(options)
    other = _task({**options, "validation_split": "test"})
    sets = [_rows(d) for d in (first.train_data, first.eval_data, other.eval_data)]
    assert all(sets)
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert _rows(again.train_data) == sets[0]
    assert _rows(again.eval_data) == sets[1]
    assert len(first.train_data) * 16 > 3900


def _rows(data: Any) -> set[tuple[int, ...]]:
    return {tuple(block["input_ids"].tolist()) for block in data}


def test_writing_leaves_the_random_state_alone(model, tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    write(AutoModelForCausalLM.from_pretrained(model), tokenizer, 10, seed=0)
    torch.testing.assert_close(torch.rand(2), expected)


# ---- a real model and real text ----------------------------------------------------------------


@pytest.mark.slow
def test_a_real_model_keeps_writing_as_it_did(options, stories_folder):
    real = {"model_name_or_path": stories_folder, "dataset_name": "self", "self_tokens": 20_000}
    run_clm.main(argv_of({**options, **real, "block_size": 128, "do_eval": True}))
    dense, pruned = (p["metrics"]["perplexity"]["mean"] for p in results_of(options)["summary"])
    assert dense < 5  # low, because the model wrote the text
    assert pruned > 2 * dense  # half of the heads and neurons are pruned, without training


@pytest.mark.slow
def test_wikitext_is_learnt(options, stories_folder, wikitext_folder):
    real = {"model_name_or_path": stories_folder, "dataset_name": wikitext_folder}
    small = {"max_train_samples": 512, "max_eval_samples": 64, "learning_rate": 1e-3}
    options |= {**real, **small, "block_size": 64}
    run_clm.main(argv_of(options))
    trained = results_of(options)["summary"][0]["metrics"]["perplexity"]["mean"]
    run_clm.main(argv_of({**options, "do_eval": True, "overwrite_output": True}))
    assert trained < results_of(options)["summary"][0]["metrics"]["perplexity"]["mean"]


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text_column": "words"}, "the train split has no column words. It has text. Name the"),
        ({"block_size": 65}, "block_size is 65. The model takes 2 to 64 tokens"),
        ({"block_size": 1}, "block_size is 1. The model takes 2 to 64"),
        ({"dataset_name": "no.csv"}, "the file no.csv does not exist"),
        ({"dataset_name": "./nowhere"}, "the folder ./nowhere does not exist"),
        ({"dataset_name": "nobody/nothing"}, "--dataset_name self"),
        ({"dataset_name": __file__}, "a file of the kinds .csv"),
        ({"validation_split": "dev"}, "--validation_split dev"),
        ({"validation_split": "train[:0%]"}, "it has no rows"),
        ({"max_eval_samples": 0}, "max_eval_samples must be at least 1"),
        ({"dataset_name": "self", "self_tokens": 0}, "self_tokens must be at least 1"),
        (
            {"dataset_name": "self", "validation_split": "dev"},
            "has no split ['dev']. It has",
        ),
        ({"model_name_or_path": "new:gpt2"}, "new:gpt2 has no tokenizer. Name one with"),
        ({"config_overrides": "depth=3"}, "has no setting ['depth']"),
        ({"config_overrides": "depth"}, "--config_overrides is name=value"),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in refusal(run_clm, {**options, **wrong}, capsys)


def test_a_type_that_does_not_exist_is_refused(options, capsys):
    wrong = {"model_name_or_path": "new:gpt9", "tokenizer_name": options["model_name_or_path"]}
    assert "gpt9" in refusal(run_clm, {**options, **wrong}, capsys)


def test_too_little_text_is_refused(options, tmp_path, capsys):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("a b c\n")
    message = refusal(run_clm, {**options, "dataset_name": tmp_path}, capsys)
    assert "the train split has 3 tokens, less than one block of 16" in message


def test_a_split_without_rows_is_refused(options, text, tmp_path, capsys):
    for split, lines in {"train": text, "validation": []}.items():
        rows = datasets.Dataset.from_dict(
            {"text": lines}, features=datasets.Features({"text": datasets.Value("string")})
        )
        rows.to_parquet(tmp_path / f"{split}.parquet")
    message = refusal(run_clm, {**options, "dataset_name": tmp_path}, capsys)
    assert "it has no rows" in message


def test_a_column_of_numbers_is_refused(options, tmp_path, capsys):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text\n1\n2\n")
    message = refusal(run_clm, {**options, "dataset_name": tmp_path}, capsys)
    assert "the column text of the train split must hold text" in message


def test_a_model_that_sees_what_it_predicts_is_refused(options, tokenizer, tmp_path, capsys):
    encoder = tmp_path / "bert"
    tokenizer.save_pretrained(encoder)
    config = BertConfig(vocab_size=len(tokenizer), **SIZES, initializer_range=0.5)
    BertLMHeadModel(config).save_pretrained(encoder)
    options["model_name_or_path"] = encoder
    assert "predicts tokens that it can see" in refusal(run_clm, options, capsys)
    run_clm.main(argv_of({**options, "config_overrides": "is_decoder=true", "do_eval": True}))
    assert len(results_of(options)["summary"]) == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(options):
    measured_the_same_by_two_processes("run_clm", options)
