"""What can be learnt, one file each: its data, its model and its metrics, as a `Problem`."""

from hf_td.tasks.problems.classification import glue_problem
from hf_td.tasks.problems.image_classification import (
    ImageArguments,
    image_classification_problem,
)
from hf_td.tasks.problems.language_modelling import TextArguments, language_modelling_problem
from hf_td.tasks.problems.question_answering import (
    QuestionArguments,
    question_answering_problem,
)
from hf_td.tasks.problems.translation import (
    TRANSLATION,
    TranslationArguments,
    translation_problem,
)

__all__ = [
    "TRANSLATION",
    "ImageArguments",
    "QuestionArguments",
    "TextArguments",
    "TranslationArguments",
    "glue_problem",
    "image_classification_problem",
    "language_modelling_problem",
    "question_answering_problem",
    "translation_problem",
]
