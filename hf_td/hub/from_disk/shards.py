"""Reads single tensors of a checkpoint, and writes a checkpoint tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_td.anatomy.finite import check_tensors
from hf_td.files import write_json
from hf_td.hub import safetensors_files

# As `save_pretrained` writes it.
_METADATA = {"format": "pt"}


class Shards:
    """The tensors of a folder's safetensors files, by name.

    Args:
        folder: a checkpoint.

    Attributes:
        shapes: of all tensors, in the order of the files.

    Raises:
        FileNotFoundError: the folder has no safetensors files.
        ValueError: a file is not whole.
    """

    def __init__(self, folder: Path) -> None:
        files = safetensors_files.find_weights(folder)
        if not files:
            raise FileNotFoundError(
                f"{folder} has neither {safetensors_files.SINGLE} nor {safetensors_files.INDEX}. "
                "Other formats cannot be read tensor by tensor. Load the model and save it again "
                "by save_pretrained"
            )
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            safetensors_files.check_readable(file)
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    self._files[name] = file
                    self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the smallest matrix."""
        matrices = {name: prod(shape) for name, shape in self.shapes.items() if len(shape) > 1}
        smallest = min(matrices, key=lambda name: matrices[name])
        return self.read([smallest])[smallest].dtype

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return copies of some tensors. A file is mapped to memory only meanwhile.

        Raises:
            ValueError: a tensor has values that are not finite.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[name], []).append(name)
        found: dict[str, Tensor] = {}
        for file, inside in by_file.items():
            with safe_open(file, framework="pt") as opened:
                found |= {name: opened.get_tensor(name).clone() for name in inside}
            check_tensors({name: found[name] for name in inside}, str(file))
        return found


class ShardWriter:
    """Collects tensors, and writes a file whenever they are large enough.

    Args:
        folder: an existing one, which nobody reads yet.
        shard_bytes: least size of a file, the last one excepted. A tensor is never split.

    Attributes:
        shapes: of all tensors that were added.
        parameters: number of their elements.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.parameters = 0
        self._folder, self._shard_bytes = folder, shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = self._bytes = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor, which must not change afterwards."""
        self.shapes[name] = tuple(tensor.shape)
        self.parameters += tensor.numel()
        self._waiting[name] = tensor.contiguous()
        self._waiting_bytes += tensor.nbytes
        if self._waiting_bytes >= self._shard_bytes:
            self._write()

    def finish(self) -> None:
        """Write what is left, and name the files as transformers does."""
        if self._waiting:
            self._write()
        if len(self._shards) == 1:
            self._draft(0).rename(self._folder / safetensors_files.SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"
            self._draft(number).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        totals = {"total_parameters": self.parameters, "total_size": self._bytes}
        index = {"metadata": totals, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self._folder / safetensors_files.INDEX, index)

    def _write(self) -> None:
        save_file(self._waiting, self._draft(len(self._shards)), metadata=_METADATA)
        self._shards.append(list(self._waiting))
        self._bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = {}, 0

    def _draft(self, number: int) -> Path:
        return self._folder / f"{number}.draft"
