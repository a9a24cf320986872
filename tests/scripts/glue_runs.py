"""Helpers that call scripts/run_glue.py."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.programs import SCRIPTS, argv_of, load_script, refusal

run_glue = load_script("run_glue")


def start(options: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "run_glue.py"), *argv_of(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def refused(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    return refusal(run_glue, options, capsys)
