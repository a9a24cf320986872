"""Loads an export in a fresh process, as its users will, and compares what it computes."""

from __future__ import annotations

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
from hf_td.hub import reload

# Of the largest output; float32 on both sides, computed by the same kernels in other shapes.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def verify_export(
    model: Any, folder: Path, auto_class: str, way: str, inputs: Mapping[str, Any]
) -> None:
    """Raise unless the folder gives, in a fresh process, what the model gives.

    Args:
        model: the model that was exported (masked or compact).
        folder: the export.
        auto_class: name of the `AutoModel...` class to load it with.
        way: `stock`, `hf_td` (after `import hf_td`) or `remote_code`.
        inputs: keyword arguments for a forward.

    Raises:
        RuntimeError: the folder does not load, or the outputs differ, if only in their type.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    expected = _computed(model, tensors)
    got = _reload(folder, auto_class, way, tensors)
    if expected["output"].dtype in (torch.float16, torch.bfloat16):
        # Rounding makes two tokens as likely as each other now and then; the output is compared.
        expected.pop("generated", None)
    for name, tensor in expected.items():
        _compare(name, tensor.cpu(), got[name], way)


def _computed(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad(), evaluating(model), in_own_type(model), seeded(model):
        computed = {"output": model(**inputs)[0]}
        if model.can_generate():
            ids = {k: v for k, v in inputs.items() if not k.startswith("decoder_")}
            computed["generated"] = model.generate(**ids, **reload.GREEDY)
    return computed


def _reload(
    folder: Path, auto_class: str, way: str, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "inputs.safetensors", Path(scratch) / "out.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in inputs.items()}, given)
        # Without -P the modules of this folder would hide others, such as onnx.
        command = [sys.executable, "-P", reload.__file__, str(folder), auto_class, way]
        done = subprocess.run(
            [*command, str(given), str(result)],
            capture_output=True,
            text=True,
            check=False,
            # Modules of remote code are copied there; nothing of the user's own is touched.
            env={**os.environ, "HF_MODULES_CACHE": scratch, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"the export does not load in a fresh process ({way}, {auto_class}); nothing was "
                f"written. The process said:\n{done.stderr.strip()[-2000:]}"
            )
        return load_file(result)


def _compare(name: str, expected: Tensor, got: Tensor, way: str) -> None:
    if got.dtype != expected.dtype:
        raise RuntimeError(
            f"the reloaded export ({way}) gives its {name} in {got.dtype} where the model gives "
            f"{expected.dtype}; nothing was written"
        )
    if not expected.is_floating_point():
        same = expected.shape == got.shape and bool((expected == got).all())
        difference, allowed = 0.0 if same else 1.0, 0.0
    else:
        scale = expected.abs().max().clamp(min=1)
        difference = float((got - expected).abs().max() / scale)
        allowed = TOLERANCE[expected.dtype]
    if not difference <= allowed:
        raise RuntimeError(
            f"the reloaded export ({way}) differs in its {name} by {difference:.1e} where "
            f"{allowed:.0e} is allowed; nothing was written"
        )
