"""The graph of a model as an ONNX file, and the proof that ONNX Runtime computes the same."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import evaluating, probe_inputs
from hf_td.extras import extra
from hf_td.hub.weights import GRAPH

# Importable names of what the extra `onnx` installs.
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# The batches and lengths of the proof; the graph is traced with neither.
SIZES = ((1, 5), (3, 12))
# Of the largest output: another engine sums in another order.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2}


def check_extra() -> None:
    """Raise ImportError unless the packages are there."""
    with extra("onnx"):
        for name in PACKAGES:
            importlib.import_module(name)


def write_graph(
    model: Any, folder: Path, example_inputs: Mapping[str, Any] | None, opset: int | None = None
) -> None:
    """Write `model.onnx` into a folder: the tensors in, the first output out, without a cache.

    Args:
        model: a model in PyTorch, which is not changed.
        folder: an existing folder.
        example_inputs: keyword arguments for a forward, or None to make some.
        opset: version of the operators; None for that which the exporter prefers.
    """
    check_extra()
    tensors, constants = _split(model, example_inputs)
    tensors = _resized(tensors, 2, 8)  # a size of 1 would be taken for a constant
    graph = _Graph(model, tuple(tensors), constants)
    with _quiet(), evaluating(graph), torch.no_grad():
        program = torch.onnx.export(
            graph,
            tuple(tensors.values()),
            dynamo=True,
            dynamic_shapes=(tuple(_dimensions(value) for value in tensors.values()),),
            input_names=list(tensors),
            output_names=[_output_name(model, tensors, constants)],
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        program.save(folder / GRAPH)


def check_graph(model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
    """Compare ONNX Runtime with PyTorch, at batches and lengths that the graph was not traced with.

    Raises:
        RuntimeError: they differ.
    """
    check_extra()
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    tensors, constants = _split(model, example_inputs)
    graph = _Graph(model, tuple(tensors), constants)
    for size in SIZES:
        given = _resized(tensors, *size)
        with torch.no_grad(), evaluating(model):
            expected = graph(*given.values()).cpu()
        got = session.run(None, {name: value.cpu().numpy() for name, value in given.items()})[0]
        _compare(expected, torch.from_numpy(got), size)


class _Graph(nn.Module):
    """A model whose forward takes tensors in order and gives the first output alone."""

    def __init__(self, model: Any, names: tuple[str, ...], constants: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.constants = dict(constants)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True)), **self.constants)[0]


def _split(
    model: Any, example_inputs: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the inputs, with a mask for tokens, and everything else."""
    inputs = dict(example_inputs or probe_inputs(model))
    if example_inputs is None and "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in inputs.items() if name not in tensors}


def _has_length(tensor: Tensor) -> bool:
    """Whether the second dimension runs over tokens: those of ids and masks do."""
    return tensor.dim() == 2 and not tensor.is_floating_point()


def _dimensions(tensor: Tensor) -> dict[int, str]:
    return {0: "batch", 1: "length"} if _has_length(tensor) else {0: "batch"}


def _resized(tensors: Mapping[str, Tensor], batch: int, length: int) -> dict[str, Tensor]:
    """Tensors of another batch and length, filled by repetition."""
    return {name: _repeated(value, batch, length) for name, value in tensors.items()}


def _repeated(tensor: Tensor, batch: int, length: int) -> Tensor:
    for dim, size in ((0, batch), (1, length)) if _has_length(tensor) else ((0, batch),):
        index = torch.arange(size, device=tensor.device) % tensor.shape[dim]
        tensor = tensor.index_select(dim, index)
    return tensor


def _output_name(model: Any, tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> str:
    outputs = model(**tensors, **constants)
    return next(iter(outputs)) if isinstance(outputs, Mapping) else "output"


def _compare(expected: Tensor, got: Tensor, size: tuple[int, int]) -> None:
    scale = float(expected.abs().max().clamp(min=1))
    difference = float((got - expected).abs().max()) / scale
    allowed = TOLERANCE.get(expected.dtype, 1e-1)
    if not difference <= allowed:
        raise RuntimeError(
            f"ONNX Runtime differs from PyTorch by {difference:.1e} at batch and length {size}, "
            f"where {allowed:.0e} is allowed; nothing was written"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter warns of its own code."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        # Every input after the first gives the same name to the same dimension.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        yield
