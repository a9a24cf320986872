"""The arguments that say what the labels of a data set are."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_td.tasks.data.splits import DatasetArguments
from hf_td.tasks.experiment.arguments import argument


@dataclass(kw_only=True)
class LabelArguments(DatasetArguments):
    """Rows with labels: classes, several classes at once, or numbers."""

    test_file: str | None = argument(
        None, "a further file to measure on; the metrics are then validation_... and test_..."
    )
    label_column: list[str] = field(
        default_factory=lambda: ["label"],
        metadata={
            "help": "column with the labels; several columns of 0 and 1 are classes of which a row "
            "can have several, and so is a column of lists",
            "aliases": ["--label_column_name"],
        },
    )
    label_separator: str | None = argument(
        None, "sign between the labels of a row that has several in one text, such as ,"
    )
    do_regression: bool | None = argument(
        None, "predict numbers; by default where the labels are floating-point numbers"
    )
    metric: str | None = argument(
        None,
        "metric of the curve. Classes: accuracy (default), macro_f1, and f1 of the second of two "
        "classes. Several at once: micro_f1 (default), macro_f1, accuracy. Numbers: pearson "
        "(default), spearmanr, rmse",
        aliases=["--metric_name"],
    )

    @property
    def label_columns(self) -> list[str]:
        """The label columns; a file of arguments can give one as a text."""
        return [self.label_column] if isinstance(self.label_column, str) else self.label_column
