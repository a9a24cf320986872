"""Folders with a few rows of a GLUE task."""

import datasets

WRITERS = {
    "csv": datasets.Dataset.to_csv,
    "jsonl": datasets.Dataset.to_json,
    "parquet": datasets.Dataset.to_parquet,
}


def rows_of(task, count=6):
    """Return a few rows that fit a task."""
    columns: dict[str, list] = {
        column: [f"{column} number {i}" for i in range(count)] for column in task.sentences
    }
    if task.is_regression:
        return {**columns, "label": [float(i % 6) for i in range(count)]}
    return {**columns, "label": [i % task.num_labels for i in range(count)]}


def write(folder, name, columns, kind="csv"):
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](datasets.Dataset.from_dict(columns), folder / f"{name}.{kind}")


def write_task(folder, task, kind="csv"):
    for split in ("train", *task.validation_splits):
        write(folder, split, rows_of(task), kind)
    return str(folder)
