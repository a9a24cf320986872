"""Records the environment of a result, and writes files that a crash cannot spoil."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import hf_td

_PACKAGE = Path(hf_td.__file__).parent
_LIBRARIES = ("torch", "transformers", "datasets")


def environment() -> dict[str, Any]:
    """Return versions, hardware and commit of this process as JSON values; None if unknown.

    `commit` is the commit of the repository that hf_td is imported from, with `-dirty` if tracked
    files differ from it; None for an installed copy.
    """
    versions = {name: _version(name) for name in _LIBRARIES}
    return {
        "versions": {"hf_td": hf_td.__version__, "python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "ram_bytes": _ram_bytes(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "commit": _commit(),
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically: a reader finds the old file or the new one, never a part.

    Missing folders are created. Numbers that are not finite become null.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _write_through(file, text)
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp creates private files
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_json_line(path: str | Path, value: Any) -> None:
    """Append a line of JSON, and flush it to the disk. Missing folders are created.

    A torn line that a crash left at the end is terminated first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(_finite(value), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        _write_through(file, ("\n" if _is_torn(path) else "") + line)


def read_json_lines(path: str | Path) -> list[Any]:
    """Read the values that `append_json_line` wrote, without lines that a crash tore.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return list(_values(Path(path)))


def _values(path: Path) -> Iterator[Any]:
    finished = path.read_text(encoding="utf-8").split("\n")[:-1]
    for line in finished:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _write_through(file: Any, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _commit() -> str | None:
    # An installed copy may lie inside another repository, which does not track it.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=_PACKAGE,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
