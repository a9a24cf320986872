"""The kinds of tasks by name. A new kind is a folder with its `task.py`, and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_td.tasks.experiment.arguments import OF_ONE_SIZE, Arguments
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.experiment.results import Results
from hf_td.tasks.experiment.series import report, run_experiment
from hf_td.tasks.glue.task import GlueArguments, glue_task
from hf_td.tasks.image_classification.task import (
    ImageClassificationArguments,
    image_classification_task,
)
from hf_td.tasks.language_modelling.task import LanguageModellingArguments, language_modelling_task
from hf_td.tasks.models import ModelSource
from hf_td.tasks.question_answering.questions import QuestionAnsweringArguments
from hf_td.tasks.question_answering.task import question_answering_task
from hf_td.tasks.task import Task
from hf_td.tasks.text_classification.arguments import TextClassificationArguments
from hf_td.tasks.text_classification.task import text_classification_task
from hf_td.tasks.translation.task import TRANSLATION, TranslationArguments, translation_task
from hf_td.training import TargetedDropoutArguments, TargetedDropoutSeq2SeqArguments


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """A row of the registry.

    Attributes:
        data: dataclass of the data arguments.
        make: builds the `Task` that the arguments describe, for a source of the model.
        training: dataclass of the training arguments.
        defaults: training arguments that differ from `experiment.arguments.recipe`.
    """

    data: type
    make: Callable[[Arguments, ModelSource], Task]
    training: type[Any] = TargetedDropoutArguments
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def parse(self, argv: Sequence[str] | None, description: str = "", **shown: Any) -> Arguments:
        """Parse a command line, or one JSON or YAML file, as `parse_arguments` does.

        Args:
            argv: as for `parse_arguments`.
            description: as for `parse_arguments`.
            **shown: `program` and `examples`, as for `parse_arguments`.
        """
        return parse_arguments(
            argv,
            self.data,
            description=description,
            training=self.training,
            defaults=self.defaults,
            **shown,
        )


TASKS: dict[str, TaskKind] = {
    "glue": TaskKind(data=GlueArguments, make=glue_task),
    "text_classification": TaskKind(
        data=TextClassificationArguments, make=text_classification_task
    ),
    "language_modelling": TaskKind(
        data=LanguageModellingArguments, make=language_modelling_task, defaults=OF_ONE_SIZE
    ),
    "image_classification": TaskKind(
        data=ImageClassificationArguments, make=image_classification_task, defaults=OF_ONE_SIZE
    ),
    "question_answering": TaskKind(data=QuestionAnsweringArguments, make=question_answering_task),
    "translation": TaskKind(
        data=TranslationArguments,
        make=translation_task,
        training=TargetedDropoutSeq2SeqArguments,
        defaults=TRANSLATION,
    ),
}


def run_task(
    name: str,
    argv: Sequence[str] | None,
    description: str | None,
    *,
    program: str | None = None,
    examples: str = "",
) -> Results:
    """Run the experiment that `argv` describes on a kind of task, and print its results.

    Args:
        name: key of `TASKS`.
        argv: command line, or the path of one JSON or YAML file; None reads `sys.argv`.
        description: shown by `--help`.
        program: as for `parse_arguments`.
        examples: as for `parse_arguments`.

    Returns:
        The content of results.json.

    Raises:
        UsageError: an argument is wrong, or what it names does not exist.
        FloatingPointError: a loss is not finite.
        SystemExit: `--help` was given.
    """
    kind = TASKS[name]
    arguments = kind.parse(argv, description or "", program=program, examples=examples)
    results = run_experiment(arguments, kind.make)
    if arguments.training.should_save:
        report(results, str(arguments.training.output_dir))
    return results
