"""Results become reports: seeds are averaged, paths stay here, and runs have to fit together."""

from __future__ import annotations

import pytest

from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.reporting import read_results, report_of, report_page
from tests.report.examples import results


def test_a_report_has_the_mean_over_the_seeds():
    (series,) = report_of([results()]).series
    dense, half = series.points
    assert dense.mean == pytest.approx(0.85)
    assert half.metric == pytest.approx((0.775, 0.675))
    assert (half.parameters, half.milliseconds, half.dense_milliseconds) == (100, 5, 10)
    assert [unit.kept for unit in half.units] == [12 - 2.5]
    assert [entry.step for entry in series.log] == [5, 10]
    assert series.timing is not None
    assert "30 forwards of inputs of shape 8 by 48 on a CPU" in series.timing


def test_a_seed_that_is_not_finite_leaves_no_mean():
    found = results()
    found["runs"][1]["curve"][1]["metrics"]["accuracy"] = None
    assert report_of([found]).series[0].points[1].mean is None


def test_older_results_lack_what_was_not_recorded():
    found = results()
    for run in found["runs"]:
        del run["costs"], run["log"], run["one_answer"]
        for point in run["curve"]:
            del point["blocks"]
    point = report_of([found]).series[0].points[1]
    assert (point.parameters, point.bytes, point.milliseconds, point.units) == (None,) * 3 + ((),)
    assert "not measured" in report_page([found])


def test_a_page_names_no_folder_of_this_machine():
    assert "/home/me" not in report_page([results()])


def test_a_model_that_knows_nothing_is_noted():
    found = results()
    found["runs"][0]["one_answer"] = [0.5]
    assert "50% removed a model gives one answer" in report_of([found]).series[0].notes[0]


def test_runs_on_one_page_share_task_and_metric():
    page = report_page([results(), results("none")])
    assert "plain fine-tuning" in page
    with pytest.raises(UsageError, match="several values of task: sst2, mrpc"):
        report_page([results(), results(task="mrpc")])


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_a_file_without_results_is_refused(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError, match=r"has no results.*Give the folder of a run"):
        read_results(tmp_path)


def test_results_of_another_kind_are_refused():
    with pytest.raises(UsageError, match="cannot be read"):
        report_page([{"summary": []}])
    with pytest.raises(UsageError, match="no sparsity was measured"):
        report_page([results(seeds=0)])
