"""scripts/run_glue.py on a tiny random model and the built-in task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from hf_td import TargetedDropoutConfig
from hf_td.hub import load_archived_model
from hf_td.hub.forms.form import Form
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.experiment.results import _command
from hf_td.tasks.glue.task import GlueArguments
from hf_td.training.distillation import teacher as teachers
from tests.hub.loopback import Fault
from tests.programs import argv_of, results_of
from tests.scripts.glue_runs import refused, run_glue

# huggingface_hub uses a deprecated part of its HTTP library.
CLIENT_IS_DEPRECATED = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_writes_results_curve_and_models(options, method, capsys):
    run_glue.main(argv_of({**options, "method": method, "seeds": [3, 1]}))
    results, folder = results_of(options), Path(options["output_dir"])
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
    run_glue.main(argv_of({**options, **wanted, "level": "unit", "export_sparsity": 0.5}))
    results, folder = results_of(options), Path(options["output_dir"]) / "seed-42"
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
    run_glue.main(argv_of({**options, "method": "none", "importance": "taylor"}))
    assert results_of(options)["configuration"]["targeted_dropout"]["importance"] == "taylor"
    message = refused({**options, "importance": "taylor", "overwrite_output": True}, capsys)
    assert "--importance taylor ranks for pruning alone" in message


def test_gradual_magnitude_pruning_is_targeted_dropout_with_fixed_settings(options):
    run_glue.main(argv_of({**options, "method": "gradual_magnitude", "targeting": 0.8}))
    configuration = results_of(options)["configuration"]
    settings = configuration["targeted_dropout"]
    assert (settings["importance"], settings["drop_rate"]) == ("magnitude", 1.0)
    schedule = {"shape": "cubic", "initial": 0.0, "begin": 0.1, "end": 0.7}
    assert settings["targeting_schedule"] == {**schedule, "sampled": 0.0, "off": 0.0}
    assert settings["targeting"] == 0.8
    assert "method_settings" not in configuration


def test_the_seeds_of_a_run_share_a_teacher_which_is_forgotten_in_the_end(
    options, model, monkeypatch
):
    loads = []
    load = BertForSequenceClassification.from_pretrained

    def counted(name: str, **settings: Any) -> Any:
        loads.append(name)
        return load(name, **settings)

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", counted)
    teacher = shutil.copytree(model, Path(options["output_dir"]).with_name("teacher"))
    run_glue.main(argv_of({**options, "seeds": [0, 1], "teacher": str(teacher)}))
    assert loads.count(str(teacher)) == 1
    assert teachers._load.cache_info().currsize == 0


def test_every_method_distils_from_a_model_that_was_fine_tuned(options, tmp_path, capsys):
    dense = {**options, "method": "none", "seed": 1, "output_dir": str(tmp_path / "dense")}
    run_glue.main(argv_of(dense))
    teacher = str(tmp_path / "dense" / "seed-1")
    for method in ("targeted_dropout", "l1"):
        wanted = {**options, "method": method, "output_dir": str(tmp_path / method)}
        run_glue.main(argv_of({**wanted, "teacher": teacher, "distill_hidden_weight": 0.1}))
        recorded = results_of(wanted)["configuration"]["arguments"]
        assert (recorded["teacher"], recorded["distill_hidden_weight"]) == (teacher, 0.1)
    assert "does not exist" in refused({**options, "teacher": str(tmp_path / "no")}, capsys)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"method": "l0", "method_settings": "strength=1"}, "unknown settings ['strength']; known"),
        ({"method": "l0", "method_settings": "penalty"}, "--method_settings is name=value"),
        ({"method": "none", "method_settings": "penalty=1"}, "has no settings of its own"),
    ],
)
def test_settings_that_a_method_has_not_are_refused(options, wanted, message, capsys):
    assert message in refused({**options, **wanted}, capsys)


@pytest.mark.slow
@CLIENT_IS_DEPRECATED
def test_an_export_is_published_with_its_card(options, hub, tmp_path, capsys):
    wanted = {"level": "unit", "sparsities": [0, 0.5], "push_to_hub": True, "seeds": [0, 1]}
    wanted["hub_model_id"] = "someone/small"
    run_glue.main(argv_of({**options, **wanted}))
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
        point = results_of(options)["runs"][seed]["curve"][1]
        exported = Path(options["output_dir"]) / f"seed-{seed}" / "export"
        assert json.loads((exported / "metrics.json").read_text()) == point["metrics"]


@CLIENT_IS_DEPRECATED
def test_a_push_that_failed_is_repeated_without_training(options, hub, capsys):
    wanted = {**options, "level": "unit", "sparsities": [0, 0.5], "seed": 0}
    hub.faults = [Fault("POST", "/commit/", status=401)]
    message = refused({**wanted, "push_to_hub": True, "hub_model_id": "someone/small"}, capsys)
    assert "The same command pushes them again without training" in message
    run_glue.main(argv_of({**wanted, "push_to_hub": True, "hub_model_id": "someone/small"}))
    out = capsys.readouterr().out
    assert "kept from an earlier call: seeds [0]" in out
    assert "published: " in out


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Skip loading each export in a new process."""
    monkeypatch.setattr(Form, "verify", lambda *_: ())


@CLIENT_IS_DEPRECATED
@pytest.mark.usefixtures("unchecked")
def test_what_is_published_is_what_the_last_call_asked_for(options, hub, capsys):
    wanted = {**options, "level": "unit", "sparsities": [0, 0.5, 0.9], "push_to_hub": True}
    for sparsity, repo in ((0.5, "someone/one"), (0.9, "someone/one"), (0.9, "someone/other")):
        run_glue.main(argv_of({**wanted, "export_sparsity": sparsity, "hub_model_id": repo}))
        assert "published: " in capsys.readouterr().out
        text = ModelCard.load(repo).text
        assert f"{sparsity:.1%} (this model)" in text
        assert f'model_id = "{repo}"' in text
        assert not any("asked" in name for name in HfApi().list_repo_files(repo))


@pytest.mark.usefixtures("unchecked")
def test_an_export_is_kept_if_it_is_what_the_call_asks_for_and_else_made_anew(options, capsys):
    wanted = {**options, "level": "unit", "sparsities": [0.5, 0.9], "export_sparsity": 0.5}
    folder = Path(options["output_dir"]) / "seed-42" / "export"

    def told(**changes: Any) -> str:
        run_glue.main(argv_of({**wanted, **changes}))
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if str(folder) in line)

    assert told().endswith(f"to {folder}")
    assert told() == f"kept from an earlier call: the export in {folder}"
    assert told(export_report=True).endswith("in place of an earlier export")
    (folder / "report.html").unlink()  # the state after another seed
    assert told(export_report=True).startswith("kept")
    assert "<html" in (folder / "report.html").read_text()
    assert told(export_sparsity=0.9).endswith("in place of an earlier export")
    assert "90.0% (this model)" in (folder / "README.md").read_text()
    assert told(export_sparsity=0.9, export_form="archive").endswith("of an earlier export")
    assert not (folder / "model.safetensors").exists()
    assert (folder / "model.archive.safetensors").is_file()
    folder.with_name("export.asked.json").unlink()  # the state after a killed call
    assert told(export_sparsity=0.9, export_form="archive").startswith("exported as archive")


def test_an_export_has_the_form_that_was_asked_for(options):
    wanted = {"export_sparsity": 0.9, "export_form": "archive", "sparsities": [0.9]}
    run_glue.main(argv_of({**options, **wanted}))
    folder = Path(options["output_dir"]) / "seed-42" / "export"
    assert (folder / "model.archive.safetensors").is_file()
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
    run_glue.main(argv_of({**options, "seeds": [0, 1]}))
    again = {**options, "output_dir": str(tmp_path / "again")}
    run_glue.main(argv_of({**again, "seed": 1}))
    first, second = results_of(options)["runs"]
    assert first["curve"] != second["curve"]
    assert second["curve"] == results_of(again)["runs"][0]["curve"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_arguments_come_from_a_file(options, tmp_path, suffix):
    file = tmp_path / f"arguments.{suffix}"
    write = json.dumps if suffix == "json" else yaml.safe_dump
    file.write_text(write({**options, "targeting": 0.6, "sparsities": [0.0, 0.6]}))
    run_glue.main([str(file)])
    results = results_of(options)
    assert results["configuration"]["targeted_dropout"]["targeting"] == 0.6
    assert results["configuration"]["arguments"]["warmup_steps"] == 0.06
    assert [point["sparsity"] for point in results["summary"]] == [0, 0.6]


def test_without_training_the_given_model_is_measured(options):
    run_glue.main(argv_of({**options, "do_eval": True}))
    (run,) = results_of(options)["runs"]
    assert (run["model"], run["training"], len(run["curve"])) == (None, {}, 3)


def test_without_evaluation_the_model_is_only_trained(options):
    run_glue.main(argv_of({**options, "do_train": True}))
    assert results_of(options)["summary"] == []
    assert (Path(options["output_dir"]) / "seed-42" / "model.safetensors").is_file()


def test_an_evaluation_strategy_does_not_stop_the_training(options):
    run_glue.main(argv_of({**options, "eval_strategy": "epoch"}))
    assert results_of(options)["runs"][0]["training"]["updates"] == 4


def test_the_unit_level_is_pruned_as_it_is_trained(options):
    run_glue.main(argv_of({**options, "level": "unit"}))
    half = results_of(options)["runs"][0]["curve"][1]
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
    assert "--ignore_mismatched_sizes to initialise them anew" in refused(options, capsys)
    run_glue.main(argv_of({**options, "ignore_mismatched_sizes": True}))
    results = results_of(options)
    assert results["metric"] == "matched_accuracy"
    assert {"matched_accuracy", "mismatched_accuracy"} <= set(results["summary"][0]["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mrpc", "cola", "sst2", "stsb", "wnli"])
def test_real_tasks_run(options, task, glue_folder):
    data = {"task_name": task, "dataset_name": str(glue_folder)}
    options |= {**data, "ignore_mismatched_sizes": True}
    run_glue.main(argv_of(options))
    assert results_of(options)["metric"] in results_of(options)["summary"][0]["metrics"]


def test_the_recorded_command_has_no_token():
    words = ["run.py", "--token", "hf_a", "--hub_token=hf_b", "--seeds", "0"]
    assert _command(words) == "python run.py --token ... --hub_token=... --seeds 0"


def test_the_recorded_configuration_has_no_token(options):
    argv = argv_of({**options, "token": "hf_secret", "hub_token": "hf_secret"})
    assert "hf_secret" not in json.dumps(parse_arguments(argv, GlueArguments).configuration())


@pytest.mark.usefixtures("unchecked")
def test_an_export_is_as_small_as_wished_and_loses_no_more(options, capsys):
    wanted = {**options, "level": "unit", "export_max_bytes": "500kB", "export_max_loss": 0.9}
    run_glue.main(argv_of(wanted))
    folder = Path(options["output_dir"]) / "seed-42" / "export"
    printed = capsys.readouterr().out
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 500_000
    assert "max_bytes: wanted 0.50 MB, got 0." in printed
    assert "max_loss: wanted 90.00% lost, got" in printed
    run_glue.main(argv_of(wanted))
    assert "kept from an earlier call" in capsys.readouterr().out
    assert (
        refused({**wanted, "export_max_bytes": "1kB"}, capsys).count("max_bytes=1000 cannot be")
        == 1
    )
