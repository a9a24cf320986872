"""What the scripts share: arguments, checks, one run, the curve, and the results of it all.

A script names its data arguments and a function that makes a `Problem` of them; the rest is here.
"""

from hf_td.experiment.arguments import (
    Arguments,
    CurveArguments,
    DataArguments,
    ModelArguments,
    recipe,
)
from hf_td.experiment.classification import glue_problem
from hf_td.experiment.errors import UsageError, run_program
from hf_td.experiment.methods import METHODS
from hf_td.experiment.models import builtin_model
from hf_td.experiment.parsing import parse_arguments
from hf_td.experiment.problem import Problem
from hf_td.experiment.run import fine_tune_and_measure
from hf_td.experiment.series import report, run_experiment

__all__ = [
    "METHODS",
    "Arguments",
    "CurveArguments",
    "DataArguments",
    "ModelArguments",
    "Problem",
    "UsageError",
    "builtin_model",
    "fine_tune_and_measure",
    "glue_problem",
    "parse_arguments",
    "recipe",
    "report",
    "run_experiment",
    "run_program",
]
