"""What the scripts share: arguments, checks, one run, the curve, and the results of it all.

A script names its data arguments and a function that makes a `Problem` of them; the rest is here.
"""

from hf_td.tasks.experiment.arguments import (
    OF_ONE_SIZE,
    Arguments,
    CurveArguments,
    DataArguments,
    ModelArguments,
    recipe,
)
from hf_td.tasks.experiment.errors import UsageError, run_program
from hf_td.tasks.experiment.methods import METHODS
from hf_td.tasks.experiment.models import builtin_model
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.experiment.problem import Problem
from hf_td.tasks.experiment.run import fine_tune_and_measure
from hf_td.tasks.experiment.series import report, run_experiment
from hf_td.tasks.problems import (
    TRANSLATION,
    ImageArguments,
    QuestionArguments,
    TextArguments,
    TranslationArguments,
    glue_problem,
    image_classification_problem,
    language_modelling_problem,
    question_answering_problem,
    translation_problem,
)

__all__ = [
    "METHODS",
    "OF_ONE_SIZE",
    "TRANSLATION",
    "Arguments",
    "CurveArguments",
    "DataArguments",
    "ImageArguments",
    "ModelArguments",
    "Problem",
    "QuestionArguments",
    "TextArguments",
    "TranslationArguments",
    "UsageError",
    "builtin_model",
    "fine_tune_and_measure",
    "glue_problem",
    "image_classification_problem",
    "language_modelling_problem",
    "parse_arguments",
    "question_answering_problem",
    "recipe",
    "report",
    "run_experiment",
    "run_program",
    "translation_problem",
]
