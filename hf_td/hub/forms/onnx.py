"""The form `onnx`: the graph of the compact model, for engines that read ONNX."""

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
from hf_td.anatomy.comparing import compare_outputs
from hf_td.extras import extra
from hf_td.hub.forms.form import Form, Place, Plan, Source, python_block
from hf_td.hub.way import Way

# The graph, in which small models have their weights, and the file beside it of larger ones.
GRAPH = "model.onnx"
GRAPH_DATA = "model.onnx.data"
# Importable names of the packages that the extra `onnx` installs.
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# The batches and lengths of the check; the graph is traced with neither.
SIZES = ((1, 5), (3, 12))
# The largest difference, as a share of the largest output: another engine sums in another order.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Onnx(Form):
    """A graph with a free batch and length, and the config."""

    files = (GRAPH, GRAPH_DATA)
    for_transformers = False

    def check_installed(self) -> None:
        """Raise ImportError unless the packages of the extra `onnx` are installed."""
        with extra("onnx"):
            for name in PACKAGES:
                importlib.import_module(name)

    def plan(self, source: Source) -> Plan:
        """Keep what is needed: a graph has any widths."""
        return Plan(units=source.needed)

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write the graph (tensors in, the first output out, no cache) and the config."""
        tensors, constants = _split(model, example_inputs)
        tensors = _resized(tensors, 2, 8)  # a size of 1 would be taken for a constant
        graph = _Graph(model, tuple(tensors), constants)
        with _without_warnings(), evaluating(graph), torch.no_grad():
            program = torch.onnx.export(
                graph,
                tuple(tensors.values()),
                dynamo=True,
                dynamic_shapes=(tuple(_dimensions(value) for value in tensors.values()),),
                input_names=list(tensors),
                output_names=[_output_name(model, tensors, constants)],
                verbose=False,
            )
            assert program is not None
            program.save(folder / GRAPH)
        model.config.save_pretrained(folder)  # it has the names of the labels

    def weights(self, folder: Path) -> list[Path]:
        """Return the graph, and the file of its weights where they are not in it."""
        names = (GRAPH, GRAPH_DATA) if (folder / GRAPH).is_file() else ()
        return [path for name in names if (path := folder / name).is_file()]

    def check_weights(self, file: Path) -> None:
        """Raise ValueError unless the file has content."""
        if not file.stat().st_size:
            raise ValueError(f"{file} is empty")

    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return ONNX Runtime."""
        loader = "InferenceSession"
        call = f'{loader}(model_id + "/{GRAPH}")'
        return (Way(name="onnxruntime", package="onnxruntime", loader=loader, call=call),)

    def verify(
        self, model: Any, exported: Any, folder: Path, example_inputs: Mapping[str, Any] | None
    ) -> tuple[str, ...]:
        """Compare ONNX Runtime with PyTorch, at batches and lengths that were not traced."""
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
        tensors, constants = _split(model, example_inputs)
        graph = _Graph(model, tuple(tensors), constants)
        for size in SIZES:
            given = _resized(tensors, *size)
            with torch.no_grad(), evaluating(model):
                expected = graph(*given.values()).cpu()
            arrays = {name: value.cpu().numpy() for name, value in given.items()}
            got = torch.from_numpy(session.run(None, arrays)[0])
            try:
                compare_outputs("its output", expected, got, TOLERANCE)
            except ValueError as error:
                raise RuntimeError(
                    f"ONNX Runtime differs from PyTorch at batch and length {size}: {error}"
                ) from error
        return tuple(way.name for way in self.ways(exported))

    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return how ONNX Runtime opens the graph."""
        (way,) = self.ways(exported)
        code = python_block(
            way.imports(),
            "",
            f'model_id = "{place.name}"  # a folder that holds it',
            f"session = {way.call}",
            "print([(tensor.name, tensor.shape) for tensor in session.get_inputs()])",
        )
        return (
            f"{code}\n\nThe batch and the length of the inputs are free. It needs ONNX Runtime, or "
            "another engine that reads ONNX, and no PyTorch."
        )


class _Graph(nn.Module):
    """A model whose forward takes tensors in order and returns the first output alone."""

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
    """Return the tensors of the inputs, with a mask for tokens, and all other inputs."""
    inputs = dict(probe_inputs(model) if example_inputs is None else example_inputs)
    if example_inputs is None and "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in inputs.items() if name not in tensors}


def _has_length(tensor: Tensor) -> bool:
    """Return True if the second dimension runs over tokens, as in ids and masks."""
    return tensor.dim() == 2 and not tensor.is_floating_point()


def _dimensions(tensor: Tensor) -> dict[int, str]:
    return {0: "batch", 1: "length"} if _has_length(tensor) else {0: "batch"}


def _resized(tensors: Mapping[str, Tensor], batch: int, length: int) -> dict[str, Tensor]:
    """Return tensors of another batch and length, filled by repetition."""
    return {name: _repeated(value, batch, length) for name, value in tensors.items()}


def _repeated(tensor: Tensor, batch: int, length: int) -> Tensor:
    for dim, size in ((0, batch), (1, length)) if _has_length(tensor) else ((0, batch),):
        index = torch.arange(size, device=tensor.device) % tensor.shape[dim]
        tensor = tensor.index_select(dim, index)
    return tensor


def _output_name(model: Any, tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> str:
    outputs = model(**tensors, **constants)
    return next(iter(outputs)) if isinstance(outputs, Mapping) else "output"


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore the exporter's warnings about its own code."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        # Every input after the first gives the same name to the same dimension.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        yield


FORM = Onnx()
