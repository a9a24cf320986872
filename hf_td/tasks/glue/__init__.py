"""GLUE tasks for fine-tuning: what each task is, its data, its metrics.

`load_task` reads a task from the Hub, from a local folder, or generates the built-in one;
`tokenize` prepares it for a model; `compute_metrics` gives `Trainer` the benchmark's metrics. The
built-in task `acceptability` needs no data from outside: English minimal pairs made from templates,
so that a demonstration or a test can fine-tune a model without a network.
"""

from .acceptability import generate
from .data import BUILTIN, GLUE_DATASET, label_names, load_task, tokenize
from .metrics import compute_metrics, load_metric
from .tasks import TASKS, Task, get_task

__all__ = [
    "BUILTIN",
    "GLUE_DATASET",
    "TASKS",
    "Task",
    "compute_metrics",
    "generate",
    "get_task",
    "label_names",
    "load_metric",
    "load_task",
    "tokenize",
]
