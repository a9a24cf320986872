"""Opens safetensors files that anybody may have written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

# The most bytes of a header. A tensor takes about a hundred, and some parsers take twenty times the
# header.
HEADER_LIMIT = 16 << 20


@contextmanager
def opened(path: str | Path, framework: Literal["pt", "np"] = "pt") -> Iterator[Any]:
    """Open a safetensors file, as `safetensors.safe_open` does.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is no whole safetensors file, or its header is larger than `HEADER_LIMIT`,
            which is found out before the header is read. The message does not name the file.
    """
    path = Path(path)
    with path.open("rb") as start:
        size = int.from_bytes(start.read(8), "little")
    if size > HEADER_LIMIT:
        raise ValueError(
            f"the file should be safetensors with a header of at most {HEADER_LIMIT} bytes, got "
            f"{size}"
        )
    try:
        file = safe_open(path, framework=framework)
    except SafetensorError as error:
        raise ValueError(f"the file should be whole safetensors: {error}") from error
    with file:
        yield file
