"""The kinds of tasks that `hf-td train` knows, by their short names.

This module needs no torch: `hf-td train --help` lists them. What a kind is stands in
`hf_td.tasks.registry`.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of task.

    Attributes:
        task: its key in `hf_td.tasks.registry.TASKS`.
        help: the data, in one line.
        columns: columns that data of this kind have.
        example: arguments after the kind, in one line.
    """

    task: str
    help: str
    columns: frozenset[str]
    example: str


KINDS: dict[str, Kind] = {
    "text": Kind(
        "text_classification",
        "your texts with labels: one of several classes, several at once, or a number",
        frozenset({"text", "label"}),
        "--model_name_or_path MODEL --train_file reviews.csv --output_dir out",
    ),
    "glue": Kind(
        "glue",
        "a task of GLUE, from the Hub or a folder",
        frozenset(),
        "--model_name_or_path MODEL --task_name sst2 --output_dir out",
    ),
    "language": Kind(
        "language_modelling",
        "text, for a causal language model",
        frozenset({"text"}),
        "--model_name_or_path MODEL --train_file text.txt --recipe language_model --output_dir out",
    ),
    "images": Kind(
        "image_classification",
        "images with labels",
        frozenset({"image", "label"}),
        "--model_name_or_path new:vit --dataset_name digits --output_dir out",
    ),
    "questions": Kind(
        "question_answering",
        "questions whose answers stand in a text, as in SQuAD",
        frozenset({"question", "context", "answers"}),
        "--model_name_or_path MODEL --train_file questions.json --output_dir out",
    ),
    "translation": Kind(
        "translation",
        "sentences in two languages",
        frozenset({"translation"}),
        "--model_name_or_path MODEL --train_file pairs.csv --target_language de --output_dir out",
    ),
}
