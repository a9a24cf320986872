"""Extractive question answering: windows over long contexts, and answers from their logits."""

from hf_td.tasks.problems.question_answering.problem import question_answering_problem
from hf_td.tasks.problems.question_answering.questions import QuestionArguments

__all__ = ["QuestionArguments", "question_answering_problem"]
