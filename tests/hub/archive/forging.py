"""Archives that are changed, or made up, with checksums that are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hf_td.hub.archive.codec import DENSE, Coded
from hf_td.hub.archive.description import FORMAT, digest_of

Streams = dict[str, bytes]


def parts_of(path: Path) -> tuple[Streams, dict[str, Any]]:
    """Return the streams of an archive, and its description."""
    with safe_open(path, framework="np") as file:
        description = json.loads(file.metadata()["description"])
    return {name: stream.tobytes() for name, stream in load_file(path).items()}, description


def forge(path: Path, streams: Streams, description: Any, **metadata: str) -> None:
    """Write an archive of streams and a description that need not fit each other."""
    text = description if isinstance(description, str) else json.dumps(description)
    own = {"format": FORMAT, "description": text, "digest": digest_of([text.encode()])}
    arrays = {name: np.frombuffer(stream, np.uint8) for name, stream in streams.items()}
    save_file(arrays, path, {**own, **metadata})


def forge_tensor(path: Path, coded: Coded, shape: list[int], dtype: str = "uint8") -> None:
    """Write an archive of one tensor of one byte an element."""
    names = ["w/plane0"] if coded.encoding == DENSE else ["w/positions", "w/plane0"]
    entry = {
        "names": ["w"],
        "dtype": dtype,
        "shape": shape,
        "encoding": coded.encoding,
        "values": coded.values,
        "digest": digest_of(coded.streams),
    }
    streams = dict(zip(names, map(bytes, coded.streams), strict=True))
    forge(path, streams, {"metadata": {}, "tensors": [entry]})
