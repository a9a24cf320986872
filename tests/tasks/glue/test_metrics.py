import os
import runpy
import subprocess
import sys
import warnings

import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_td.tasks.glue.benchmark import GLUE_TASKS, get_glue_task
from hf_td.tasks.glue.metrics import METRIC_PATH, compute_metrics, load_metric

OUTSIDE = {
    "accuracy": lambda p, y: (p == y).mean(),
    "f1": lambda p, y: sklearn.metrics.f1_score(y, p),
    "matthews_correlation": lambda p, y: sklearn.metrics.matthews_corrcoef(y, p),
    "pearson": lambda p, y: scipy.stats.pearsonr(p, y)[0],
    "spearmanr": lambda p, y: scipy.stats.spearmanr(p, y)[0],
}


def outputs(task, rows=200, seed=0):
    """Return random logits and weakly correlated labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, task.num_labels)).astype(np.float32)
    if task.is_regression:
        return logits, (logits[:, 0] + rng.normal(size=rows)).astype(np.float32)
    labels = rng.integers(task.num_labels, size=rows)
    logits[np.arange(rows), labels] += 1
    return logits, labels


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_equal_to_sklearn_and_scipy(name):
    task = get_glue_task(name)
    logits, labels = outputs(task)
    predictions = logits[:, 0] if task.is_regression else logits.argmax(axis=1)
    found = compute_metrics(name)(EvalPrediction(predictions=logits, label_ids=labels))
    assert tuple(found) == task.metrics
    assert all(type(value) is float for value in found.values())
    expected = {metric: OUTSIDE[metric](predictions, labels) for metric in task.metrics}
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found[task.primary] < 0.95


def test_metric_module_has_the_metrics_of_every_task():
    names = runpy.run_path(str(METRIC_PATH))["METRIC_NAMES"]
    assert names == {name: task.metrics for name, task in GLUE_TASKS.items()}


def test_metric_loads_by_path():
    metric = evaluate.load(str(METRIC_PATH), "mrpc")
    assert metric.compute(predictions=[0, 1, 1], references=[0, 1, 0]) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 2 / 3}
    )


def test_metric_takes_batches():
    metric = load_metric("sst2")
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[1, 1], references=[0, 1])
    assert metric.compute() == {"accuracy": 0.75}


@pytest.mark.parametrize("offline", ["0", "1"])
def test_metric_loads_without_network_and_without_waiting(offline, tmp_path):
    program = (
        "import evaluate, sys, time; start = time.time();"
        "m = evaluate.load(sys.argv[1], 'cola');"
        "assert m.compute(predictions=[0, 1], references=[0, 1]) == {'matthews_correlation': 1.0};"
        "assert time.time() - start < 10"
    )
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline}
    environment = {**os.environ, **closed, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(METRIC_PATH)]
    subprocess.run(command, env=environment, check=True, timeout=60)


def test_unknown_task():
    with pytest.raises(ValueError, match="Unknown task 'nope'"):
        load_metric("nope")
    with pytest.raises(ValueError, match=r"Unknown task 'nope'\. Give one of: mnli"):
        evaluate.load(str(METRIC_PATH), "nope")


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "acceptability"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_predictions_give_numbers_and_no_warning(name, value):
    task = get_glue_task(name)
    logits, labels = outputs(task)
    logits[:] = 0.0
    logits[:, -1] = value  # argmax: class 0 on ties, the last class otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_metrics(task)(EvalPrediction(predictions=logits, label_ids=labels))
    assert all(np.isfinite(list(found.values())))
    undefined = {"matthews_correlation", "pearson", "spearmanr"} & set(found)
    assert [found[metric] for metric in undefined] == [0.0] * len(undefined)


@pytest.mark.parametrize(
    "logits",
    [[[np.nan], [1.0], [2.0]], [[3.0], [3.0], [3.0 + 1e-15]]],
    ids=["nan", "near-constant"],
)
def test_undefined_correlations_are_zero(logits):
    prediction = EvalPrediction(predictions=np.array(logits), label_ids=np.array([1.0, 2.0, 3.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute_metrics("stsb")(prediction)["pearson"] == 0.0


def test_one_row():
    single = EvalPrediction(predictions=np.array([[0.5]]), label_ids=np.array([1.0]))
    assert compute_metrics("stsb")(single) == {"pearson": 0.0, "spearmanr": 0.0}


def test_logits_may_be_first_of_a_tuple():
    logits, labels = outputs(get_glue_task("mrpc"))
    compute = compute_metrics("mrpc")
    plain = compute(EvalPrediction(predictions=logits, label_ids=labels))
    states = np.zeros((len(labels), 4, 8))
    both = EvalPrediction(
        predictions=(logits, states),  # pyright: ignore[reportArgumentType]
        label_ids=labels,
    )
    assert compute(both) == plain


def test_scores_may_be_squeezed():
    logits, labels = outputs(get_glue_task("stsb"))
    compute = compute_metrics("stsb")
    column = compute(EvalPrediction(predictions=logits, label_ids=labels))
    assert compute(EvalPrediction(predictions=logits[:, 0], label_ids=labels)) == column


@pytest.mark.parametrize(("name", "shape"), [("mnli", (5, 2)), ("stsb", (5, 2)), ("cola", (5,))])
def test_wrong_logits_are_refused(name, shape):
    prediction = EvalPrediction(predictions=np.zeros(shape), label_ids=np.zeros(5))
    with pytest.raises(ValueError, match=r"needs logits of shape \(rows, \d\).*num_labels="):
        compute_metrics(name)(prediction)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_every_binary_case_gives_numbers_in_range(rows):
    labels = np.array([label for label, _ in rows])
    logits = np.eye(2)[[guess for _, guess in rows]]
    metrics = runpy.run_path(str(METRIC_PATH))
    predictions = logits.argmax(axis=1)
    assert 0.0 <= metrics["accuracy"](predictions, labels) <= 1.0
    assert 0.0 <= metrics["f1"](predictions, labels) <= 1.0
    assert -1.0 <= metrics["matthews_correlation"](predictions, labels) <= 1.0
