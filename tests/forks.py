"""Forks of a process that has imported the libraries: fresh processes without seconds of imports.

A fork has what Python has after `import torch, transformers`, and nothing of hf_td or of a test. So
an export is loaded in it as in a new process. Slow tests start a new one for each.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_IMPORTED = (
    "safetensors.torch",
    "transformers.dynamic_module_utils",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
)
_CACHE = "HF_MODULES_CACHE"


class Forks:
    """Runs Python programs in forks of one process, which starts with the first of them."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], *, env: Mapping[str, str], **_options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `[python, "-P", program, *arguments]` and capture output, as `subprocess.run`."""
        argv = command[2:]
        with tempfile.TemporaryDirectory() as scratch:
            said = {name: Path(scratch) / name for name in ("stdout", "stderr")}
            files = {name: str(path) for name, path in said.items()}
            order = {"argv": argv, "env": dict(env), "folder": str(Path.cwd()), **files}
            code = self._ask(order)
            out, err = (path.read_text(encoding="utf-8") for path in said.values())
        return subprocess.CompletedProcess(list(command), code, out, err)

    def close(self) -> None:
        """End the process."""
        if self._parent is not None:
            self._parent.communicate()  # at the end of its input it ends

    def _ask(self, order: Mapping[str, Any]) -> int:
        if self._parent is None:
            self._parent = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
        asked, answers = self._parent.stdin, self._parent.stdout
        assert asked is not None
        assert answers is not None
        asked.write(json.dumps(order) + "\n")
        asked.flush()
        return int(answers.readline())


def _import() -> None:
    """Import what every program that loads a model imports."""
    for name in _IMPORTED:
        importlib.import_module(name)


def _run(order: Mapping[str, Any]) -> int:
    """Run a program in this process, and return its exit status."""
    os.environ.clear()
    os.environ.update(order["env"])
    for name in ("transformers.utils.hub", "transformers.dynamic_module_utils"):
        # Read from the environment at import.
        setattr(sys.modules[name], _CACHE, os.environ[_CACHE])
    os.chdir(order["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT), number)
    sys.argv = order["argv"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    """Fork for each line of the standard input, and answer with the exit status."""
    _import()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = _run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
