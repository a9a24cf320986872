"""Checks downloaded weights against the checksums of the Hub.

Over HTTP huggingface_hub compares only sizes. But its cache names each large file by the SHA-256
that the Hub gave: bytes that changed on the way show.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

_SHA256 = re.compile("[0-9a-f]{64}")


def check_downloads(files: Iterable[str | Path] | None) -> None:
    """Compare the checksum of each file in the Hub's cache; other files are ignored.

    A damaged file is removed from the cache, and the next load downloads it again.

    Args:
        files: paths of checkpoint files; None for none.

    Raises:
        OSError: a file differs from the one on the Hub.
    """
    for file in map(Path, files or ()):
        blob = file.resolve()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            _check(file, blob)


def _check(file: Path, blob: Path) -> None:
    with blob.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != blob.name:
        file.unlink()
        blob.unlink(missing_ok=True)
        raise OSError(
            f"{file.name} is not what the Hub has: its SHA-256 is {found}, expected {blob.name}. "
            "It was damaged on the way, and is removed from the cache; load again."
        )
