"""Labels of any kind: what they say, what is wrong with them, their targets and their metrics."""

from hf_td.tasks.labels.arguments import LabelArguments
from hf_td.tasks.labels.encoding import encode, warn_if_alike
from hf_td.tasks.labels.metrics import check_metric, first_output, label_metrics, lower_is_better
from hf_td.tasks.labels.reading import Labels, check_labels, read_labels

__all__ = [
    "LabelArguments",
    "Labels",
    "check_labels",
    "check_metric",
    "encode",
    "first_output",
    "label_metrics",
    "lower_is_better",
    "read_labels",
    "warn_if_alike",
]
