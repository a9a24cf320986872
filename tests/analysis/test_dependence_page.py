from __future__ import annotations

import json
from typing import Any

import pytest

from hf_td.analysis import dependence_page
from hf_td.analysis.dependence import BlockDependence, Dependence
from hf_td.analysis.dependence_page import dependence_record, dependence_tables, plot_dependence
from hf_td.analysis.expansion import Terms
from hf_td.tasks.errors import UsageError
from tests.programs import load_script
from tests.tables import unpadded

FOUND = Dependence(
    sparsity=0.75,
    loss=0.5,
    pruned_loss=0.9,
    blocks=(
        BlockDependence("a.0 (attention)", "0 attention", 1234, Terms(0.1, 0.2, 0.03, -0.4), 0.25),
        BlockDependence("a.0 (ff)", "0 feed-forward", 7, Terms(-0.05, 0.01, 0.03, 0.1), -0.02),
    ),
)
EMPTY = Dependence(0.75, 0.5, 0.5, ())


def test_terms_add_up():
    total = FOUND.total
    assert [total.linear, total.within, total.between, total.kept] == pytest.approx(
        [0.05, 0.21, 0.06, -0.3]
    )
    assert FOUND.predicted == pytest.approx(0.05 + 0.27)
    assert FOUND.true == pytest.approx(0.4)
    assert FOUND.blocks[0].predicted == pytest.approx(0.3)


def test_a_table_has_a_line_for_each_model_and_each_block():
    text = unpadded(dependence_tables({"plain": [FOUND], "other": [EMPTY]}))
    assert "## 75% removed" in text
    assert "| plain | 0.5000 | +0.0500 | +0.2700 | +0.3200 | +0.4000 | -0.3000 |" in text
    assert "| other | 0.5000 | +0.0000 | +0.0000 | +0.0000 | +0.0000 | +0.0000 |" in text
    line = (
        "| 0 attention | 1,234 | +0.10000 | +0.20000 | +0.03000 | -0.40000 | +0.30000 | +0.25000 |"
    )
    assert line in text


def test_the_record_is_json_and_has_it_all():
    (found,) = json.loads(json.dumps(dependence_record({"plain": [FOUND]})))
    assert (found["model"], found["sparsity"], found["loss"]) == ("plain", 0.75, 0.5)
    assert found["predicted"] == pytest.approx(0.32)
    assert found["blocks"][1]["terms"]["kept"] == 0.1


def test_the_plot_has_a_panel_for_each_model_and_bars_for_each_term(tmp_path):
    figure: Any = dependence_page._draw({"plain": [FOUND], "other": [FOUND]}, "title")
    left, right = figure.axes
    assert left.get_title(loc="left") == "plain, 75% removed\npredicted +0.320, true +0.400"
    assert right.get_title(loc="left").startswith("other")
    heights = [[bar.get_height() for bar in bars] for bars in left.containers]
    assert heights == [[0.1, -0.05], [0.2, 0.01], [0.03, 0.03]]
    assert list(left.lines[0].get_ydata()) == [0.25, -0.02]
    png, svg = plot_dependence({"plain": [FOUND]}, tmp_path / "p", title="t")
    assert png.is_file()
    assert svg.is_file()
    with pytest.raises(ValueError, match="nothing was removed"):
        plot_dependence({"other": [EMPTY]}, tmp_path / "p", title="t")


def test_the_program_measures_models_side_by_side(tmp_path, capsys):
    program = load_script("dependence")
    options = ["--task_name", "acceptability", "--sparsities", "0", "0.5", "--use_cpu", "true"]
    tiny = "hidden_size=32,num_hidden_layers=1,num_attention_heads=4,intermediate_size=64"
    options += ["--tokenizer_name", "builtin-minilm", "--config_overrides", tiny]
    options += ["--rows", "6", "--batch_size", "4", "--level", "unit"]
    models = ["--models", "new:bert", "new:bert", "--labels", "a", "b"]
    program.main([*models, "--output", str(tmp_path / "out"), *options])
    said = capsys.readouterr().out
    assert "a, 50% removed: predicted " in said
    page = (tmp_path / "out.md").read_text()
    assert "## 50% removed" in page
    assert "## 0% removed" not in page
    record = json.loads((tmp_path / "out.json").read_text())
    assert [found["model"] for found in record["measured"]] == ["a", "b"]
    assert record["environment"]["commit"]
    with pytest.raises(UsageError, match="needs a label of its own"):
        program.main([*models[:3], "--output", str(tmp_path / "out"), *options])
