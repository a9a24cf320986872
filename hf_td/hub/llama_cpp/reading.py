"""Reads a Llama back from GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hf_td.hub.llama_cpp.names import OUTPUT, gguf_names, is_rotated
from hf_td.hub.llama_cpp.tensors import DTYPES, in_halves, to_tensor
from hf_td.hub.llama_cpp.vocabulary import import_gguf
from hf_td.hub.llama_cpp.writing import ARCHITECTURE

# Tensors of a layer, and the list in the metadata that says their number of rows: heads or neurons.
_HEADS = {
    "attn_q": "attention.head_count",
    "attn_k": "attention.head_count_kv",
    "attn_v": "attention.head_count_kv",
}
_NEURONS = {"ffn_gate": "feed_forward_length", "ffn_up": "feed_forward_length"}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors that `write_gguf` wrote, by their names in Transformers.

    Raises:
        ImportError: the extra `gguf` is not installed.
        ValueError: the file is damaged, of another architecture, or lacks a tensor; or a tensor
            has another number of rows than the metadata say.
    """
    fields, stored = _opened(file)
    size = fields["attention.key_length"]
    names = gguf_names(fields["block_count"], tied=OUTPUT not in stored)
    missing = sorted(set(names.values()) - stored.keys())
    if missing:
        raise ValueError(f"{file} has no tensor {missing[0]}")
    _check_rows(fields, stored, file)
    tensors = {name: stored[its_name] for name, its_name in names.items()}
    return {n: in_halves(t, size) if is_rotated(n) else t for n, t in tensors.items()}


def check_file(file: Path) -> None:
    """Raise ValueError unless a file is as long as its head says.

    Raises:
        ImportError: the extra `gguf` is not installed.
    """
    _reader(file)


def _opened(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata of the architecture, without its name in the keys, and the tensors."""
    reader, kinds = _reader(file), import_gguf().GGMLQuantizationType
    prefix = f"{ARCHITECTURE}."
    fields = {
        name.removeprefix(prefix): field.contents()
        for name, field in reader.fields.items()
        if name.startswith(prefix)
    }
    if not fields:
        raise ValueError(f"{file} is not of the architecture {ARCHITECTURE} of llama.cpp")
    dtypes = {kinds[name]: dtype for dtype, (name, _) in DTYPES.items()}
    others = [t.name for t in reader.tensors if t.tensor_type not in dtypes]
    if others:
        raise ValueError(f"{others[0]} of {file} is quantised. Expected the file as exported")
    return fields, {t.name: to_tensor(t.data, dtypes[t.tensor_type]) for t in reader.tensors}


def _reader(file: Path) -> Any:
    try:
        return import_gguf().GGUFReader(file)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"{file} is damaged, or no GGUF: {error!r}") from error


def _check_rows(fields: dict[str, Any], stored: dict[str, Tensor], file: Path) -> None:
    size = fields["attention.key_length"]
    for part, key in {**_HEADS, **_NEURONS}.items():
        for index, count in enumerate(fields[key]):
            name = f"blk.{index}.{part}.weight"
            rows, wanted = stored[name].shape[0], count * (size if part in _HEADS else 1)
            if rows != wanted:
                raise ValueError(f"{name} of {file} has {rows} rows, and {key} says {wanted}")
