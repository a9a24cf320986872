"""scripts/run_question_answering.py on generated questions."""

from __future__ import annotations

import pytest
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
)

from hf_td.tasks.experiment.methods import METHODS
from tests.programs import argv_of, measured_the_same_by_two_processes, results_of
from tests.scripts.question_answering.questions import (
    run_question_answering,
)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_writes_exact_match_and_f1_at_every_sparsity(options, method):
    run_question_answering.main(argv_of({**options, "method": method}))
    results = results_of(options)
    assert (results["task"], results["metric"]) == ("question answering", "f1")
    (run,) = results["runs"]
    assert [point["sparsity"] for point in run["curve"]] == [0, 0.5]
    for point in run["curve"]:
        assert set(point["metrics"]) == {"loss", "exact_match", "f1"}
        assert 0 <= point["metrics"]["exact_match"] <= point["metrics"]["f1"] <= 100
    saved = options["output_dir"] / run["model"]
    assert AutoModelForQuestionAnswering.from_pretrained(saved).config.num_labels == 2
    assert AutoTokenizer.from_pretrained(saved).padding_side == "right"


def test_a_saved_model_is_measured_again_and_seeds_are_kept(options, tmp_path):
    options |= {"seeds": [0, 1]}
    run_question_answering.main(argv_of(options))
    first = results_of(options)
    run_question_answering.main(argv_of(options))  # all seeds are finished
    assert results_of(options)["runs"] == first["runs"]
    again = {
        **options,
        "model_name_or_path": options["output_dir"] / "seed-1",
        "output_dir": tmp_path / "again",
        "seeds": 1,
        "do_eval": True,
    }
    run_question_answering.main(argv_of(again))
    (run,) = results_of(again)["runs"]
    for before, after in zip(first["runs"][1]["curve"], run["curve"], strict=True):
        assert before["metrics"] == after["metrics"]


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(options, tmp_path):
    options |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run_question_answering.main(argv_of(options))
    checkpoint = options["output_dir"] / "seed-42" / "checkpoint-2"
    resumed = {**options, "output_dir": tmp_path / "resumed", "resume_from_checkpoint": checkpoint}
    run_question_answering.main(argv_of(resumed))
    one, other = (results_of(each)["runs"][0]["curve"] for each in (options, resumed))
    assert one == other


def test_an_export_is_loaded_and_its_card_tells_f1(options):
    run_question_answering.main(argv_of({**options, "export_sparsity": 0.5}))
    export = options["output_dir"] / "seed-42" / "export"
    card = (export / "README.md").read_text()
    assert "| f1 |" in card
    assert "pipeline_tag: question-answering" in card
    assert AutoModelForQuestionAnswering.from_pretrained(export).num_parameters() > 0


def test_the_model_before_is_a_teacher_too(options):
    """Check that starts and ends are learnt from the teacher alone."""
    taught = {"dense_epochs": 1, "teacher": "start", "distill_weight": 1.0}
    run_question_answering.main(argv_of({**options, **taught}))
    (run,) = results_of(options)["runs"]
    assert run["dense"]["model"] == "dense"
    assert 0 < run["training"]["loss"] < 1


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.slow
def test_who_lives_where_is_learnt(options, folder, negative, negatives):
    more = {"max_steps": 300, "learning_rate": 3e-3, "sparsities": [0], "method": "none"}
    data = {"dataset_name": negative if negatives else folder, "version_2_with_negative": negatives}
    run_question_answering.main(argv_of({**options, **more, **data}))
    (point,) = results_of(options)["summary"]
    assert point["metrics"]["f1"]["mean"] > 80
    assert point["metrics"]["exact_match"]["mean"] > 70


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_with_such_questions(options, negative, method):
    data = {"dataset_name": negative, "version_2_with_negative": True}
    run_question_answering.main(argv_of({**options, **data, "method": method}))
    assert len(results_of(options)["summary"]) == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(options):
    measured_the_same_by_two_processes("run_question_answering", options)
