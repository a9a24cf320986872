"""The Triton kernels compile without a device, and use registers alone."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from typing import Any

import pytest
import torch

from hf_td.functional import Cut

triton = pytest.importorskip("triton")

CAPABILITIES = [80, 90]  # of an A100 and an H100
FLOAT, HALF = torch.float32, torch.bfloat16


class Device:
    """A stand-in for the driver of a device: names the target to compile for, launches nothing."""

    def __init__(self, capability: int) -> None:
        self._target = triton.backends.compiler.GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiling:
    """A stand-in for a kernel that compiles each launch and runs none."""

    def __init__(self, kernel: Any) -> None:
        self._kernel, self.compiled = kernel, []

    def __getitem__(self, grid: Any) -> Any:
        def compile_it(*args: Any, **kwargs: Any) -> None:
            self.compiled.append(self._kernel.warmup(*args, grid=grid, **kwargs))

        return compile_it


@pytest.fixture(params=CAPABILITIES)
def device(request, monkeypatch) -> None:
    monkeypatch.setattr(type(triton.runtime.driver), "active", Device(request.param))


def compiling(file: str, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Compiling]:
    """Return a file of kernels with a stand-in for one of them, and the stand-in."""
    module = import_module(f"hf_td.kernels.{file}")
    stand_in = Compiling(getattr(module, name))
    monkeypatch.setattr(module, name, stand_in)
    return module, stand_in


def bytes_outside_registers(compiled: Any, folder: Any) -> int:
    """Return the bytes of a thread in local memory, which is as slow as reading the weights."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(\w+):(\d+)", output))
    return int(usage["STACK"]) + int(usage["LOCAL"])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("shape", "dim", "dtype"),
    [((768, 768), 1, FLOAT), ((768, 3072), 1, HALF), ((768, 768), 0, FLOAT), ((5, 7), 1, FLOAT)],
)
def test_cut_offs(shape, dim, dtype, scaled, device, monkeypatch, tmp_path):
    module, kernel = compiling("triton_ranking", "_cutoffs", monkeypatch)
    several = torch.zeros(2, dtype=torch.int64)
    module.write_cutoffs(
        several,
        several if scaled else None,
        several,
        torch.empty(2, shape[1 - dim]),
        weight=torch.empty(shape, dtype=dtype),
        dim=dim,
        count=3,
        aligned=shape != (5, 7),
    )
    assert [bytes_outside_registers(one, tmp_path) for one in kernel.compiled] == [0]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("source", "out"), [(FLOAT, HALF), (HALF, FLOAT), (FLOAT, FLOAT)])
@pytest.mark.parametrize("shape", [(768, 3072), (8, 64, 48)])
def test_masked(shape, source, out, scaled, device, monkeypatch, tmp_path):
    module, kernel = compiling("triton_masking", "_masked", monkeypatch)
    limits, draw = torch.empty(*shape[:-1], 1), torch.zeros(3, dtype=torch.int64)
    module.write_masked(
        torch.empty(shape, dtype=source),
        torch.empty(shape),
        Cut(limits, draw, torch.empty(shape[-1]) if scaled else None),
        (0, 1),
        torch.empty(shape, dtype=out),
    )
    assert [bytes_outside_registers(one, tmp_path) for one in kernel.compiled] == [0]


@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_squares(dim, device, monkeypatch, tmp_path):
    module, kernel = compiling("triton_sums", "_sums", monkeypatch)
    pointers = torch.zeros(3, dtype=torch.int64)
    sums = torch.empty(3, 768)
    module.write_sums(pointers, sums, weight=torch.empty(768, 768), dim=dim, aligned=True)
    assert [bytes_outside_registers(one, tmp_path) for one in kernel.compiled] == [0]
