"""The script of all that needs a GPU runs to its end, with tiny models on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_td.files import read_json_lines

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu.sh"


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", SCRIPT, "--tiny", folder],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def lines(folder: Path, name: str) -> list[Any]:
    return read_json_lines(folder / f"{name}.jsonl")


@pytest.mark.slow
def test_every_part_runs_and_writes_its_lines(tmp_path):
    done = run(tmp_path, ROUNDS="2", SLOWER="20")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    parts = lines(tmp_path, "gpu")
    assert len(parts) == 15
    assert {part["status"] for part in parts} == {0}
    steps = [r for r in lines(tmp_path, "training_speed") if r["case"] == "step"]
    measured = {(r["shape"]["name"], r["mode"], r["variant"]) for r in steps}
    rivals = ("naive port", "parametrize")
    for shape in ("BERT-base", "Llama, 1 B"):
        for mode in ("eager", "compile"):
            assert {(shape, mode, v) for v in ("weight", "unit", *rivals)} <= measured
    assert {("Llama, 1 B", "fsdp2", "weight"), ("Llama, 1 B", "fsdp2", "unit")} <= measured
    assert len(lines(tmp_path, "training_speed")) == len(steps) + 1  # and one of memory
    latency = lines(tmp_path, "inference")
    assert {r["batch"] for r in latency if r.get("kind") != "generation"} == {1, 8, 64}
    assert any(r.get("kind") == "generation" for r in latency)


def test_a_part_ends_at_its_limit_and_the_next_begins(tmp_path):
    """The interpreter is one that sleeps; no part gets more than the time that is left."""
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nsleep 100\n")
    sleeper.chmod(0o755)
    done = run(tmp_path / "out", PYTHON=str(sleeper), SLOWER="0")
    assert done.returncode == 1
    parts = lines(tmp_path / "out", "gpu")
    assert [part["status"] for part in parts] == [124] * 15
    assert all(part["seconds"] == 0 for part in parts)  # less than ten seconds is not worth a start
