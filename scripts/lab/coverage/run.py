"""Survey model types in processes of their own, and write a line of JSON for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from hf_td.analysis.record import environment
from hf_td.files import append_json_line, read_records
from lab.coverage.heads import survey_head
from lab.coverage.survey import survey_type

CHUNK = 40
# Seconds of processor time that one type may take.
TYPE_TIMEOUT = 60
_CODE = "import sys; from lab.coverage.run import survey_chunk; survey_chunk(sys.argv[1:])"


class _TooLong(BaseException):
    """The end of the time of one type: no `except Exception` catches it."""


def _environment() -> dict[str, str]:
    """Return an environment in which a new process finds `lab`, as a script in its folder does."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def registered_types() -> list[str]:
    """Return the model types for which `AutoModel` has a class."""
    return list(MODEL_MAPPING_NAMES)


def survey_all(results: Path, types: Sequence[str], processes: int = 2) -> None:
    """Survey the types that have no line in `results` yet.

    A type that kills its process gets a line too.

    Args:
        results: file of JSON lines, to which new ones are appended.
        types: model types.
        processes: the number of processes that run at a time.
    """
    left = [t for t in types if t not in finished(results)]
    chunks = [left[i : i + CHUNK] for i in range(0, len(left), CHUNK)]
    running: list[tuple[subprocess.Popen[bytes], list[str]]] = []
    while chunks or running:
        while chunks and len(running) < processes:
            chunk = chunks.pop(0)
            command = [sys.executable, "-c", _CODE, str(results), *chunk]
            running.append((subprocess.Popen(command, env=_environment()), chunk))
        time.sleep(0.2)
        for process, chunk in [r for r in running if r[0].poll() is not None]:
            running.remove((process, chunk))
            rest = [t for t in chunk if t not in finished(results)]
            if rest:  # the first of them killed the process
                reason = f"its process ended with status {process.returncode}"
                append_json_line(results, _refused(rest[0], reason))
                chunks.insert(0, rest[1:])


def finished(results: Path) -> dict[str, Any]:
    """Return the recorded lines by model type."""
    return {r["type"]: r for r in read_records(results, "type")} if results.exists() else {}


def survey_chunk(arguments: Sequence[str]) -> None:
    """Survey types in this process.

    Args:
        arguments: the file of results, then the types.
    """
    results, *types = arguments
    torch.set_num_threads(1)
    logging.set_verbosity(50)  # critical: default configs cause many warnings
    warnings.simplefilter("ignore")
    commit = environment()["commit"]
    for record in _surveyed(types):
        append_json_line(results, {**record, "commit": commit})


def _surveyed(types: Sequence[str]) -> Iterator[dict[str, Any]]:
    signal.signal(signal.SIGPROF, _give_up)
    for model_type in types:
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, TYPE_TIMEOUT)
        try:
            record = (survey_head if ":" in model_type else survey_type)(model_type)
        except _TooLong:
            record = _refused(model_type, f"took longer than {TYPE_TIMEOUT} seconds")
        except Exception as error:
            record = _refused(model_type, f"{type(error).__name__}: {error}"[:200])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        yield {**record, "seconds": round(time.perf_counter() - start, 1)}


def _give_up(*_: Any) -> None:
    raise _TooLong


def _refused(model_type: str, reason: str) -> dict[str, Any]:
    return {"type": model_type, "outcome": "refused", "projections": True, "reason": reason}
