"""The Triton kernel: in the interpreter wherever Triton is, on CUDA wherever that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_td import functional, kernels
from hf_td.kernels import Ranked

ROOT = Path(__file__).parents[2]


def test_the_kernel_equals_the_plain_functions_in_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted.py"],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": _path()},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(768, 768), (3072, 768), (768, 3072), (8192, 2048)])
@pytest.mark.parametrize("dim", [0, 1])
def test_candidates_on_cuda_are_those_of_the_plain_function(dim, shape, dtype):
    draws = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(shape, device="cuda", generator=draws, dtype=dtype)
    one = Ranked(weight, dim, torch.rand(shape[dim], device="cuda", generator=draws), key=3)
    ((keep, _),) = kernels.keep_masks([one], 0.91, 1.0)
    candidates = functional.candidate_mask(one.scores().cpu(), 0.91, dim)
    assert torch.equal(keep.cpu(), ~candidates)
