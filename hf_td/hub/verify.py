"""Loads an export in a fresh process, as its users will, and compares what it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_td.anatomy import evaluating, in_own_type, seeded
from hf_td.anatomy.comparing import compare_outputs
from hf_td.hub import reload
from hf_td.hub.way import Way

# The largest difference, as a share of the largest output: the same kernels compute both, in
# other shapes.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def verify_way(model: Any, folder: Path, way: Way, inputs: Mapping[str, Any]) -> None:
    """Raise unless the folder gives, in a fresh process, what the model gives.

    Args:
        model: the model that was exported (masked or compact).
        folder: the export.
        way: the code to load it with; the code is run as it stands.
        inputs: keyword arguments for a forward.

    Raises:
        RuntimeError: the folder does not load, or the outputs differ, if only in their dtype.
    """
    expected = _computed(model, inputs)
    got = _reload(folder, way, inputs)
    if expected["output"].dtype in (torch.float16, torch.bfloat16):
        # Rounding makes two tokens equally likely now and then; only the output is compared.
        expected.pop("generated", None)
    for name, tensor in expected.items():
        try:
            compare_outputs(f"its {name}", tensor.cpu(), got[name], TOLERANCE)
        except ValueError as error:
            raise RuntimeError(
                f"the reloaded export ({way.name}) computes something else: {error}"
            ) from error


def _computed(model: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.no_grad(), evaluating(model), in_own_type(model), seeded(model):
        return reload.compute(model, inputs)


def _reload(folder: Path, way: Way, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "inputs.safetensors", Path(scratch) / "out.safetensors"
        _save_inputs(inputs, given)
        code = f"{way.imports()}\nmodel = {way.call}"
        hf_td = "without_hf_td" if way.without_hf_td else "with_hf_td"
        # Without -P the modules of this folder would hide others of the same name.
        command = [sys.executable, "-P", reload.__file__, str(folder), code, hf_td]
        done = subprocess.run(
            [*command, str(given), str(result)],
            capture_output=True,
            text=True,
            check=False,
            # Modeling files are copied to this cache: the user's own is not touched.
            env={**os.environ, "HF_MODULES_CACHE": scratch, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"the export does not load in a fresh process ({way.name}, {way.loader}). "
                f"The process said:\n{done.stderr.strip()[-2000:]}"
            )
        return load_file(result)


def _save_inputs(inputs: Mapping[str, Any], file: Path) -> None:
    """Write tensors as such, and all other inputs as JSON in the metadata."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    others = {name: value for name, value in inputs.items() if name not in tensors}
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        file,
        metadata={reload.OTHERS: json.dumps(others)},
    )
