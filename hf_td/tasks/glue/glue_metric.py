"""The GLUE metrics as a module for `evaluate.load(path_of_this_file, task_name)`.

The `evaluate` library imports a copy of this file, so the file must not import from hf_td. Its
import scanner needs one import per line.
"""

import math
import warnings

import datasets
import evaluate
import scipy.stats
import sklearn.metrics

_ACCURACY = ("accuracy",)

METRIC_NAMES = {
    "mnli": _ACCURACY,
    "qqp": ("accuracy", "f1"),
    "qnli": _ACCURACY,
    "sst2": _ACCURACY,
    "cola": ("matthews_correlation",),
    "stsb": ("pearson", "spearmanr"),
    "mrpc": ("accuracy", "f1"),
    "rte": _ACCURACY,
    "wnli": _ACCURACY,
    "acceptability": ("accuracy", "matthews_correlation"),
}

_DESCRIPTION = "The metrics of the GLUE benchmark (https://gluebenchmark.com), one set per task."

_CITATION = """@inproceedings{wang2019glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and
          Bowman, Samuel R.},
  year={2019}
}"""

_INPUTS = """
Args:
    predictions: predicted class ids, or scores for stsb.
    references: true class ids, or scores for stsb.

Returns:
    A dictionary with a float for each metric of the task. An undefined correlation (one side is
    constant or has NaN) and an F1 without positives are 0.0.
"""


def accuracy(predictions, references) -> float:
    """Return the fraction of equal entries."""
    return float(sklearn.metrics.accuracy_score(references, predictions))


def f1(predictions, references) -> float:
    """Return F1 of class 1; 0.0 if neither side has that class."""
    score = sklearn.metrics.f1_score
    # pyright infers the type of `zero_division` from its default, "warn".
    return float(score(references, predictions, zero_division=0.0))  # pyright: ignore


def matthews_correlation(predictions, references) -> float:
    """Return Matthews' correlation; 0.0 if one side is constant."""
    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0
    return float(sklearn.metrics.matthews_corrcoef(references, predictions))


def pearson(predictions, references) -> float:
    """Return Pearson's r; 0.0 if it is undefined."""
    return _correlation(scipy.stats.pearsonr, predictions, references)


def spearmanr(predictions, references) -> float:
    """Return Spearman's rank correlation; 0.0 if it is undefined."""
    return _correlation(scipy.stats.spearmanr, predictions, references)


def _correlation(statistic, predictions, references) -> float:
    if len(predictions) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.stats.DegenerateDataWarning)
        try:
            value = float(statistic(predictions, references)[0])
        except scipy.stats.DegenerateDataWarning:
            return 0.0
    return value if math.isfinite(value) else 0.0


_FUNCTIONS = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}


class GlueMetric(evaluate.Metric):
    """The metrics of one GLUE task; the configuration is named after the task."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in METRIC_NAMES:
            tasks = ", ".join(METRIC_NAMES)
            raise ValueError(f"Unknown task {self.config_name!r}. Give one of: {tasks}.")
        kind = datasets.Value("float64" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": kind, "references": kind}),
            format="numpy",
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        names = METRIC_NAMES[self.config_name]
        return {name: _FUNCTIONS[name](predictions, references) for name in names}
