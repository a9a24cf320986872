"""Runs from the command line: their progress, their measured costs, and the pages of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from hf_td.hub.forms.form import Form
from hf_td.tasks.experiment import series
from hf_td.tasks.experiment.stages import job_of
from hf_td.tasks.progress import Job
from tests.test_cli import run
from tests.tiny import tiny_model, tiny_tokenizer

OPTIONS = "--level unit --max_steps 2 --logging_steps 1 --sparsities 0 0.5 --use_cpu true"
COSTS = "--measure_costs true --export_sparsity 0.5 --export_report true"
RUNS = {
    "ours": f"--seeds 0 1 --dense_epochs 1 {COSTS}",
    "plain": "--method none --disable_tqdm true",
}


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Runs:
    """Two runs on one table: targeted dropout with all extras, and plain."""

    folder: Path
    shown: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    tiny_model("bert").save_pretrained(folder / "tiny")
    tiny_tokenizer().save_pretrained(folder / "tiny")
    rows = [f"{'word ' * (1 + i % 5)}, {label}" for i, label in enumerate(["good", "bad"] * 16)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    own = ["--model_name_or_path", folder / "tiny", "--train_file", folder / "reviews.csv"]
    found = Runs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Form, "verify", lambda *_: ())  # a fresh process takes seconds
        patch.setattr(
            series, "job_of", lambda *of: found.jobs.append(job_of(*of)) or found.jobs[-1]
        )
        for name, more in RUNS.items():
            patch.setattr("sys.stderr", terminal := Terminal())
            words = (*own, "--output_dir", folder / name, *OPTIONS.split(), *more.split())
            assert run(patch, "train", "text", *words) == 0
            found.shown[name] = terminal.getvalue()
    return found


def test_a_terminal_shows_the_time_left_of_all_seeds(runs):
    parts = runs.jobs[0].parts.values()
    assert [part.units for part in parts] == pytest.approx([0, 0, 0, 0])
    assert [part.done for part in parts] == pytest.approx([2, 2, 4, 2])  # dense, training, ...
    assert "seed 2 of 2, training" in runs.shown["ours"]
    assert " left" in runs.shown["ours"]
    assert "%|" not in runs.shown["plain"]


def test_measured_costs_are_those_of_the_export(runs):
    found, _ = json.loads((runs.folder / "ours" / "results.json").read_text())["runs"]
    dense, half = found["costs"]
    export = runs.folder / "ours" / "seed-0" / "export"
    model = AutoModelForSequenceClassification.from_pretrained(export)
    assert [dense["sparsity"], half["sparsity"]] == [0, 0.5]
    assert half["form"] == "compact"
    assert half["parameters"] == model.num_parameters() < dense["parameters"]
    assert half["bytes"] == 4 * half["parameters"]
    assert half["latency"]["shape"][0] == 3  # the rows that are held out
    assert 0 < half["latency"]["compact"]["low"] <= half["latency"]["compact"]["high"]


def test_the_page_of_a_run_is_in_its_export(runs, monkeypatch, capsys):
    page = (runs.folder / "ours" / "seed-0" / "export" / "report.html").read_text()
    assert "28,418" in page
    assert "not measured" not in page
    assert run(monkeypatch, "report", runs.folder / "ours", "--json") == 0
    assert Path(json.loads(capsys.readouterr().out)["page"]).read_text() == page


def test_compare_writes_the_runs_on_one_page(runs, monkeypatch, capsys, tmp_path):
    words = ("compare", runs.folder / "ours", runs.folder / "plain", "--title", "Both")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    page = Path(answer["page"]).read_text()
    assert answer["bytes"] == Path(answer["page"]).stat().st_size
    assert "<title>Both</title>" in page
    assert "targeted dropout" in page
    assert "plain fine-tuning" in page
    assert "not measured" in page  # the plain run measured no costs


def test_compare_refuses_what_is_no_run_or_no_page(runs, monkeypatch, capsys):
    assert run(monkeypatch, "compare", runs.folder / "ours", runs.folder / "tiny") == 2
    assert "Give the folder of a run" in capsys.readouterr().err
    assert run(monkeypatch, "compare", runs.folder / "ours", "--output", "page.txt") == 2
    assert "--output is an HTML file" in capsys.readouterr().err
