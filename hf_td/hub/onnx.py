"""Writes a model for engines that read ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_td.files import folder_bytes, whole_folder
from hf_td.hub.export import Export
from hf_td.hub.onnx_graph import check_extra, check_graph, write_graph


def export_onnx(
    model: Any,
    folder: str | Path,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    check: bool = True,
    opset: int | None = None,
) -> Export:
    """Write a model as it is, compact or not, as `model.onnx` with a free batch and length.

    `export_model(model, folder, form="onnx")` makes a pruned model compact first.

    Args:
        model: a `PreTrainedModel`; it is not changed.
        folder: where to; written as a whole or not at all.
        example_inputs: keyword arguments for one forward, where the kind of the main input is not
            known or other inputs are wanted. Their tensors become the inputs of the graph; of
            ids and masks the length is free, of all others the batch alone.
        overwrite: whether a folder that holds something may be replaced.
        check: compare ONNX Runtime with PyTorch at two other batches and lengths.
        opset: version of the operators; None for that which the exporter prefers.

    Raises:
        ImportError: the extra `onnx` is not installed.
        FileExistsError: the folder holds something and `overwrite` is False.
        RuntimeError: ONNX Runtime computes something else; nothing was written.
    """
    check_extra()
    with whole_folder(folder, overwrite=overwrite) as temporary:
        write_graph(model, temporary, example_inputs, opset)
        if check:
            check_graph(model, temporary, example_inputs)
    return Export(
        folder=Path(folder),
        form="onnx",
        reason="it was asked for",
        parameters=model.num_parameters(),
        bytes=folder_bytes(folder),
        ways=("onnxruntime",) if check else (),
    )
