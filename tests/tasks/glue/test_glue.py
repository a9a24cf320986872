import dataclasses

import pytest

from hf_td.tasks.glue.benchmark import GLUE_TASKS, GlueTask, get_glue_task

# From the GLUE paper (Wang et al., 2019), table 1, and the columns of nyu-mll/glue.
GLUE = {
    "mnli": (("premise", "hypothesis"), 3, ("accuracy",)),
    "qqp": (("question1", "question2"), 2, ("accuracy", "f1")),
    "qnli": (("question", "sentence"), 2, ("accuracy",)),
    "sst2": (("sentence",), 2, ("accuracy",)),
    "cola": (("sentence",), 2, ("matthews_correlation",)),
    "stsb": (("sentence1", "sentence2"), 1, ("pearson", "spearmanr")),
    "mrpc": (("sentence1", "sentence2"), 2, ("accuracy", "f1")),
    "rte": (("sentence1", "sentence2"), 2, ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), 2, ("accuracy",)),
}


@pytest.mark.parametrize("name", GLUE)
def test_glue_tasks(name):
    task = get_glue_task(name)
    assert (task.sentences, task.num_labels, task.metrics) == GLUE[name]
    assert task.name == name


def test_all_tasks_are_there():
    assert set(GLUE_TASKS) == {*GLUE, "acceptability"}


@pytest.mark.parametrize("task", GLUE_TASKS.values(), ids=GLUE_TASKS)
def test_each_task_is_consistent(task):
    assert task.primary in task.metrics
    assert 1 <= len(task.sentences) <= 2
    assert task.is_regression == (task.num_labels == 1) == (task.name == "stsb")


def test_validation_splits():
    two = ("validation_matched", "validation_mismatched")
    for name, task in GLUE_TASKS.items():
        assert task.validation_splits == (two if name == "mnli" else ("validation",))


def test_a_task_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="name"):
        get_glue_task("cola").name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_task_passes_through():
    task = GlueTask(
        name="mine", sentences=("text",), num_labels=4, metrics=("accuracy",), primary="accuracy"
    )
    assert get_glue_task(task) is task


def test_unknown_task_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"Unknown task 'zzz'\. Tasks: mnli, qqp, .*acceptability"):
        get_glue_task("zzz")


@pytest.mark.parametrize(("typo", "meant"), [("sst-2", "sst2"), ("CoLA", "cola"), ("mprc", "mrpc")])
def test_a_near_miss_gets_a_suggestion(typo, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        get_glue_task(typo)
