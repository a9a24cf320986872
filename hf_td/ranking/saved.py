"""Values that training measured or learned, saved next to the weights of a model.

A stock checkpoint has no place for activations and learned scores, so each kind has its own file.
Every save of a model writes what is attached to it. One rule finds both kinds: attached to the
model, else in the local folder that the model was loaded from. Names are found under another prefix
when a head was added or taken off. Only the `download` functions reach the Hub.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from hf_td.files import read_json_object, replacing
from hf_td.modules.saving import save_with
from hf_td.tensor_files import opened

Write = Callable[[nn.Module, Path], None]

_CONFIG = "config.json"
# Entries of a config that another version or loading may change.
_CHANGING = frozenset({"transformers_version", "dtype", "_name_or_path"})


@dataclass(frozen=True)
class Saved:
    """A kind of saved value, one tensor for each name of a layer.

    Attributes:
        file: name of the file next to the weights.
        module: of hf_td.ranking, with the functions of this kind.
        attribute: name of the attribute of a model that the values are attached to.
        noun: name of the values in messages.
        dims: number of dimensions of a tensor; None for any.
        least: the lowest value that can be.
        most: the highest value that can be.
    """

    file: str
    module: str
    attribute: str
    noun: str
    dims: int | None = None
    least: float = -math.inf
    most: float = float(torch.finfo(torch.float32).max)

    def attach(self, model: nn.Module, value: Any, write: Write) -> None:
        """Attach a value to a model, and let every save of the model write it.

        Args:
            model: the model.
            value: the value; None marks the file next to the weights as stale.
            write: writes the value of a model to a folder.
        """
        model.__dict__[self.attribute] = value
        save_with(model, self.file, partial(_writing, write) if value is not None else None)

    def attached(self, model: nn.Module) -> tuple[Any] | None:
        """Return the value attached to a model or a part of it, in a tuple; None if none is."""
        for module in model.modules():
            if self.attribute in module.__dict__:
                return (module.__dict__[self.attribute],)
        return None

    def find(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return the tensors in the local folder that a model was loaded from, or None.

        The Hub is not reached. A model does not record its subfolder. In a folder without a
        config, the tensors are those of the one subfolder whose config equals the model's.

        Raises:
            ValueError: as for `read`.
        """
        folder = _folder(model, self.file)
        return None if folder is None else self.load(folder / self.file, model)

    def download(self, model: nn.Module, **options: Any) -> dict[str, Tensor] | None:
        """Return the tensors in the repository on the Hub that a model was loaded from, or None.

        Args:
            model: loaded by `from_pretrained`.
            options: the `revision`, `subfolder`, `token` and `cache_dir` that it was loaded with. A
                model does not record them.

        Raises:
            ValueError: as for `read`.
        """
        path = cached_file(
            getattr(model, "name_or_path", ""),
            self.file,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else self.load(path, model)

    def load(self, path: str | Path, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a file, by the names of the layers in this model.

        Raises:
            OSError, ValueError: as for `read`.
        """
        return {_name_in(model, name): tensor for name, tensor in self.read(path).items()}

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """Return the tensors of a file by their names.

        Raises:
            OSError: there is no such file, or it may not be read.
            ValueError: it is not as `save` writes it: damaged, of another type, with other numbers
                of dimensions, or with values that cannot be. The message names the file.
        """
        try:
            with opened(path) as file:
                tensors = {name: self._read_one(file, name) for name in file.keys()}
            self.check(tensors)
        except ValueError as error:
            raise ValueError(
                f"The {self.noun} in {path} cannot be used: {error}. Copy the file again, or delete"
                " it and train again, or prune by importance='magnitude' without it"
            ) from error
        return tensors

    def _read_one(self, file: Any, name: str) -> Tensor:
        """Read a tensor, whose type and shape are checked before."""
        there = file.get_slice(name)
        shape, kind = there.get_shape(), there.get_dtype()
        fits = (self.dims is None or len(shape) == self.dims) and math.prod(shape) > 0
        if kind != "F32" or not fits:
            dims = "" if self.dims is None else f" with {self.dims} dimension"
            raise ValueError(
                f"{name} should be a tensor of F32{dims} that is not empty, got {kind} of shape "
                f"{tuple(shape)}"
            )
        return file.get_tensor(name)

    def check(self, tensors: Mapping[str, Tensor], noun: str | None = None) -> None:
        """Raise ValueError for values that cannot be, such as NaN; the first tensor is named.

        Args:
            tensors: by name.
            noun: for the message; None for that of this kind.
        """
        ends = {name: tensor.aminmax() for name, tensor in tensors.items() if tensor.numel()}
        for name, (low, high) in ends.items():
            low, high = float(low), float(high)
            if not (low >= self.least and high <= self.most):  # NaN is neither
                raise ValueError(
                    f"the {noun or self.noun} of {name} should be from {self.least:g} to "
                    f"{self.most:g}, got {low:g} to {high:g}"
                )

    def save(self, folder: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to an existing folder; no file if there are none."""
        if tensors:
            every = {
                name: t.float().cpu().clone().contiguous() for name, t in sorted(tensors.items())
            }
            with replacing(Path(folder) / self.file) as draft:
                save_file(every, draft)

    def missing(self, model: nn.Module, names: Collection[str], cure: str) -> str:
        """Return the message for missing values.

        Args:
            model: the model.
            names: the layers without values, at least one.
            cure: the start of the last sentence, an advice that fits the caller.
        """
        first, *more = names
        others = f" and {len(more)} more layers" if more else ""
        return (
            f"The {self.noun} of {first}{others} are missing. They were looked for with the model "
            f"and {self._place(model)}. {cure}, or give the folder that has {self.file}: "
            f"hf_td.ranking.{self.module}.load_{self.module}(model, folder)"
        )

    def _place(self, model: nn.Module) -> str:
        """Return where the file was looked for, in words."""
        name = getattr(model, "name_or_path", "")
        if not name:
            return "in no folder, since the model names none that it was loaded from"
        if not Path(name).is_dir():
            return f"in no folder, since {name} is none from the working directory {Path.cwd()}"
        return f"in the folder {name}"


@contextmanager
def _writing(write: Write, model: nn.Module, folder: Path) -> Iterator[None]:
    """Write values after a save."""
    yield
    write(model, folder)


def _folder(model: nn.Module, file: str) -> Path | None:
    """Return the local folder with a file and the weights of a model, or None."""
    place = Path(getattr(model, "name_or_path", ""))
    if not place.name:  # not loaded from anywhere
        return None
    if (place / file).is_file():
        return place
    if not place.is_dir() or (place / _CONFIG).is_file():
        return None
    beside = [sub for sub in sorted(place.iterdir()) if (sub / file).is_file()]
    fitting = [sub for sub in beside if _has_config_of(model, sub)]
    return fitting[0] if len(fitting) == 1 else None


def _has_config_of(model: Any, folder: Path) -> bool:
    path = folder / _CONFIG
    try:
        theirs = read_json_object(path)
    except (OSError, ValueError):
        return False
    ours = model.config.to_dict()
    keys = (theirs.keys() & ours.keys()) - _CHANGING
    return all(json.dumps(theirs[key]) == json.dumps(ours[key]) for key in keys)


def _name_in(model: Any, name: str) -> str:
    """Return the name of a layer in a model whose head was added or taken off since saving."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for known in (name, prefix + name, name.removeprefix(prefix)):
        if _has_layer(model, known):
            return known
    return name


def _has_layer(model: nn.Module, name: str) -> bool:
    """Return True if a name is that of a module or of a parameter, such as a stack of experts."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return leaf in module._modules or leaf in module._parameters
