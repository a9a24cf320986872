"""The commands of `hf-td` beside prune and trim: their help, their JSON, their exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hf_td import cli, export_model, prune_model
from hf_td.cli.answers import MISSED
from hf_td.cli.kinds import KINDS
from hf_td.cli.training import find_kind
from hf_td.hub import load_archived_model
from hf_td.hub.forms.form import Form
from hf_td.tasks.errors import UsageError
from hf_td.tasks.registry import TASKS
from tests.test_cli import run
from tests.test_cli_amounts import reader, texts
from tests.tiny import tiny_model

__all__ = ["reader", "texts"]

SCREEN = 57  # lines
COMMANDS = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]


def examples(command: str) -> list[list[str]]:
    """Return the words of the examples of a help, without `hf-td COMMAND`."""
    _, *lines = COMMANDS[command].epilog.split("\n\n")
    words = [shlex.split(line) for line in lines]
    assert all(line[:2] == ["hf-td", command] for line in words)
    return [line[2:] for line in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_two_screens_and_its_examples_are_read(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert run(monkeypatch, command, "--help") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 2 * SCREEN
    assert examples(command)
    for words in examples(command):
        assert " ".join(words) in " ".join(printed.split())
        if command != "train":
            COMMANDS[command].make_context(command, words)  # raises for what it does not know


def test_every_kind_of_task_has_a_short_name_and_an_example_that_is_read(tmp_path):
    assert sorted(row.task for row in KINDS.values()) == sorted(TASKS)
    for row in KINDS.values():
        words = row.example.replace(" out", f" {tmp_path}")
        arguments = TASKS[row.task].parse(shlex.split(words))
        assert arguments.training.output_dir == str(tmp_path)


def test_the_help_of_a_kind_is_that_of_its_script(monkeypatch, capsys):
    assert run(monkeypatch, "train", "text", "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: hf-td train text OPTIONS")
    assert f"hf-td train text {KINDS['text'].example}" in printed
    assert "--text_column" in printed


@pytest.mark.parametrize(
    ("contents", "words", "kind"),
    [
        ("text,label\na,1\n", ("--train_file", "FILE"), "text"),
        ("text,label\na,1\n", ("--train_file=FILE",), "text"),
        ("text\na\n", ("--train_file", "FILE"), "language"),
        ("question,context,answers\na,b,c\n", ("--train_file", "FILE"), "questions"),
        ("image,label\na,1\n", ("--train_file", "FILE"), "images"),
        ("", ("--task_name", "sst2"), "glue"),
        ("", ("--dataset_name", "digits"), "images"),
        ("", ("--train_file", "none.csv", "--text_pair_column", "b"), "text"),
    ],
)
def test_the_data_tell_the_kind(tmp_path, contents, words, kind):
    file = tmp_path / "rows.csv"
    file.write_text(contents)
    assert find_kind([word.replace("FILE", str(file)) for word in words]) == kind


def test_a_file_of_arguments_tells_the_kind(tmp_path):
    (tmp_path / "run.json").write_text('{"task_name": "sst2"}')
    assert find_kind([str(tmp_path / "run.json")]) == "glue"


def test_data_that_do_not_tell_the_kind_are_refused():
    with pytest.raises(UsageError, match="hf-td train KIND OPTIONS, where KIND is text, glue"):
        find_kind(["--dataset_name", "user/data"])
    with pytest.raises(UsageError, match=r"kind of task 'texts'.* Did you mean text\?"):
        find_kind(["texts", "--train_file", "a.csv"])


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """A folder with a Llama, half of it in three forms, and half of another."""
    folder = tmp_path_factory.mktemp("halves")
    model = tiny_model("llama")
    model.save_pretrained(folder / "whole")
    prune_model(model, sparsity=0.5, level="unit", importance="magnitude")
    for form in ("stock", "compact", "archive"):
        export_model(model, folder / form, form=form, check=False)
    other = AutoModelForCausalLM.from_pretrained(folder / "stock")
    weights = folder / "stock" / "model.safetensors"
    (folder / "broken").mkdir()
    for path in (folder / "stock").iterdir():
        (folder / "broken" / path.name).write_bytes(path.read_bytes())
    changed = {name: 2 * tensor for name, tensor in load_file(weights).items()}
    save_file(changed, folder / "broken" / "model.safetensors", metadata={"format": "pt"})
    assert other.num_parameters()
    return folder


@pytest.mark.parametrize(
    ("form", "ways"),
    [
        ("stock", ["stock"]),
        pytest.param("compact", ["hf_td", "remote_code"], marks=pytest.mark.slow),
        pytest.param("archive", ["archive"], marks=pytest.mark.slow),
    ],
)
def test_check_loads_an_export_in_each_way_and_compares(monkeypatch, capsys, halves, form, ways):
    assert run(monkeypatch, "check", halves / form, "--against", halves / "stock", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["form"], found["ways"]) == (True, form, ways)


def test_check_ends_with_3_where_something_differs(monkeypatch, capsys, halves):
    words = ("check", halves / "broken", "--against", halves / "stock")
    assert run(monkeypatch, *words) == MISSED
    printed = capsys.readouterr().out
    assert "computes something else: its output differs by" in printed
    assert "stock is the model before pruning, its outputs are others" in printed
    (halves / "broken" / "model.safetensors").write_bytes(b"\0" * 9)
    assert run(monkeypatch, "check", halves / "broken") == MISSED
    assert "is not as it should be" in capsys.readouterr().out
    assert run(monkeypatch, "check", halves / "missing") == 2
    assert "missing is no folder" in capsys.readouterr().err


def test_bench_times_both_models_at_each_batch(monkeypatch, capsys, halves):
    words = ("bench", halves / "whole", halves / "stock", "--batch", "1", "--batch", "3")
    assert run(monkeypatch, *words, "--length", "9", "--rounds", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["shape"] for one in found["latency"]] == [[1, 9], [3, 9]]
    assert all(one["compact"]["median"] > 0 and one["runs"] == 3 for one in found["latency"])
    sizes = found["sizes"]
    assert sizes["compact"]["parameters"] < sizes["dense"]["parameters"]
    assert sizes["compact"]["bytes"] < sizes["dense"]["bytes"]
    assert run(monkeypatch, *words, "--rounds", "2") == 0
    assert "times as fast" in capsys.readouterr().out


def test_export_writes_another_form(monkeypatch, capsys, halves, tmp_path):
    monkeypatch.setattr(Form, "verify", lambda *_: ())  # a fresh process takes seconds
    words = ("export", halves / "stock", tmp_path / "again", "--form", "archive", "--json")
    assert run(monkeypatch, *words) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "archive"
    before = AutoModelForCausalLM.from_pretrained(halves / "stock").state_dict()
    after = load_archived_model(tmp_path / "again").state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)
    assert run(monkeypatch, *words) == 2


def test_a_dry_run_of_push_lists_the_files_and_sends_nothing(monkeypatch, capsys, halves):
    monkeypatch.setattr("hf_td.cli.pushing.push_to_hub", None)
    assert run(monkeypatch, "push", halves / "stock", "user/small", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed
    assert "nothing was sent" in printed
    assert run(monkeypatch, "push", halves, "user/small", "--dry-run") == 2
    assert "no finished export" in capsys.readouterr().err
    assert run(monkeypatch, "push", halves / "stock", "user/a name", "--dry-run") == 2
    assert "user/a name" in capsys.readouterr().err


def test_push_names_what_the_hub_refuses(monkeypatch, capsys, halves):
    def refuse(*_, **__):
        raise PermissionError("the Hub does not know you")

    monkeypatch.setattr("hf_td.cli.pushing.push_to_hub", refuse)
    assert run(monkeypatch, "push", halves / "stock", "user/small") == 2
    assert "error: the Hub does not know you" in capsys.readouterr().err


def test_inspect_says_what_pruning_would_give(monkeypatch, capsys, halves):
    assert run(monkeypatch, "inspect", halves / "whole", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    size, pruned = found["size"], found["pruned"]
    assert size["prunable_bytes"] == 4 * size["prunable_parameters"] < size["bytes"]
    assert [one["sparsity"] for one in pruned] == [0.25, 0.5, 0.75]
    half = AutoModelForCausalLM.from_pretrained(halves / "stock")
    assert pruned[1]["parameters"] == half.num_parameters()
    assert pruned[1]["form"] == "stock"
    assert pruned[1]["refused"]["compact"] is None


def test_a_curve_has_the_metric_the_bytes_and_the_time(
    monkeypatch, capsys, reader, texts, tmp_path
):
    words = ("curve", reader, "--sparsity", "0", "0.5", "--rounds", "2")
    words = (*words, "--length", "16", "--evaluate", texts, "--plot", tmp_path / "plot")
    assert run(monkeypatch, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    dense, half = found["curve"]
    assert half["bytes"] < dense["bytes"]
    assert half["removed_prunable"] == pytest.approx(0.5, abs=0.1)
    assert half["metrics"]["perplexity"] > 1
    assert half["latency"]["shape"] == [1, 16]
    assert all(Path(file).is_file() for file in found["plot"])
    assert run(monkeypatch, *words[:-4]) == 0
    assert "perplexity" not in capsys.readouterr().out


def test_debug_shows_where_an_error_in_the_input_came_up(monkeypatch, capsys, tmp_path):
    words = ("inspect", tmp_path / "missing")
    assert run(monkeypatch, *words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run(monkeypatch, "--debug", *words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_completion_names_commands_and_is_offered_for_shells():
    environment = {**os.environ, "_HF_TD_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['hf-td']; from hf_td.cli import app; app()",
        ],
        env={**environment, "COMP_WORDS": "hf-td tr"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["train", "trim"], done.stderr
