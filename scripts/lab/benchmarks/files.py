"""Bytes and score of a pruned model in each type of number."""

from __future__ import annotations

import copy
import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from hf_td.analysis.tables import markdown_table
from hf_td.files import folder_bytes
from hf_td.hub import export_model
from hf_td.pruning import prune_model
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.task import Task

_BATCH = 32
Batch = Mapping[str, Any]
# From a batch of tensors to logits, `(rows, labels)`.
Predict = Callable[[Batch], np.ndarray]


def measure_files(
    task: Task, arguments: Arguments, sparsity: float
) -> Iterator[dict[str, float | str]]:
    """Yield a JSON object for each type: float32, bfloat16, and int8 in an ONNX graph.

    Args:
        task: of classification or regression, whose validation set gives the score.
        arguments: of the task, with the level and the importance.
        sparsity: to prune to, in [0, 1].
    """
    model: Any = task.make_model().eval()
    prune_model(model, sparsity, **how_to_prune(model, task, arguments))
    with tempfile.TemporaryDirectory() as scratch:
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            folder = Path(scratch) / name
            export = export_model(copy.deepcopy(model).to(dtype), folder)
            loaded = task.load_model(folder).eval()
            files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
            yield {
                "type": name,
                "form": export.form,
                "parameters": export.parameters,
                "bytes": sum(path.stat().st_size for path in files),
                task.metric: _score(task, _predict_by(loaded)),
            }
        graph, export = _quantised(model, Path(scratch))
        yield {
            "type": "int8",
            "form": export.form,
            "parameters": export.parameters,
            "bytes": graph.stat().st_size,
            task.metric: _score(task, _predict_with(graph)),
        }


def _quantised(model: Any, scratch: Path) -> tuple[Path, Any]:
    """Return the graph of a model with weights in 8 bits, and the export that it was made of."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    export = export_model(model, scratch / "onnx", form="onnx")
    small = scratch / "int8.onnx"
    quantization.quantize_dynamic(
        export.folder / "model.onnx", small, weight_type=quantization.QuantType.QInt8
    )
    assert small.stat().st_size < folder_bytes(export.folder)
    return small, export


def _predict_by(model: Any) -> Predict:
    @torch.no_grad()
    def predict(batch: Batch) -> np.ndarray:
        return model(**batch).logits.float().numpy()

    return predict


def _predict_with(graph: Path) -> Predict:
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]

    def predict(batch: Batch) -> np.ndarray:
        return session.run(None, {name: batch[name].numpy() for name in names})[0]

    return predict


def _score(task: Task, predict: Predict) -> float:
    """Return the metric of the task on its validation set."""
    logits, labels = [], []
    for batch in DataLoader(task.eval_data, _BATCH, collate_fn=task.collator):
        labels.append(batch.pop("labels").numpy())
        logits.append(predict(batch))
    found = EvalPrediction(np.concatenate(logits), np.concatenate(labels))
    return float(task.compute_metrics(found)[task.metric])


def files_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of the last line of each model, sparsity and type, in Markdown."""
    last = {(r["label"], r["sparsity"], r["type"]): r for r in records}
    heads = ("model", "pruned", "type", "form", "million parameters", "MB", "score")
    rows = (
        (
            r["label"],
            f"{r['sparsity']:.0%}",
            r["type"],
            r["form"],
            f"{r['parameters'] / 1e6:.1f}",
            f"{r['bytes'] / 1e6:.1f}",
            f"{r[r['metric']]:.3f}",
        )
        for r in last.values()
    )
    return markdown_table(heads, rows, left_columns=4)
