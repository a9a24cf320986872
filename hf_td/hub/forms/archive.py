"""The form `archive`: nothing is taken out, and the weights are compressed without loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from hf_td.files import read_json_object
from hf_td.hub.archive import LIMIT, load_archive, read_description, save_archive
from hf_td.hub.archive.description import DTYPES
from hf_td.hub.forms.form import ARCHIVE_NAME, Form, Place, Plan, Source, python_block
from hf_td.hub.untrusted import JSON_LIMIT, Held, as_value_errors, check_config
from hf_td.hub.way import Way


class Archive(Form):
    """A config and a compressed file of weights."""

    files = (ARCHIVE_NAME,)
    compresses = True

    def plan(self, source: Source) -> Plan:
        """Keep everything."""
        return Plan()

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write the configs and the archive."""
        model.config.dtype = model.dtype
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        save_archive(model.state_dict(), folder / ARCHIVE_NAME)

    def weights(self, folder: Path) -> list[Path]:
        """Return the archive."""
        return [path for path in (folder / ARCHIVE_NAME,) if path.is_file()]

    def check_weights(self, file: Path) -> None:
        """Raise ValueError unless the archive is whole and well described."""
        read_description(file)

    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return `load_archived_model`, with a limit where the model needs a higher one."""
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        limit = f", limit={size}" if size > LIMIT else ""
        loader = load_archived_model.__name__
        call = f"{loader}(model_id{limit})"
        return (Way(name="archive", package="hf_td.hub", loader=loader, call=call),)

    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return the call of `load_archived_model`."""
        (way,) = self.ways(exported)
        code = python_block(
            way.imports(),
            "",
            f'model_id = "{place.name}"  # a folder that holds it',
            f"model = {way.call}",
        )
        return (
            f"{code}\n\nIts weights are compressed without loss. `from_pretrained` finds none "
            "here, and raises an error."
        )

    def limitation(self, *, all_stored: bool) -> str | None:
        """Return the card's sentence about zeros: they take no place in the file."""
        if not all_stored:
            return None
        return (
            "In memory, what was removed is stored as zeros, and a forward takes as long as that "
            "of the dense model."
        )


def load_archived_model(folder: str | Path, *, limit: int = LIMIT) -> Any:
    """Load the model of an export in the form `archive`, bit for bit, each tensor in its own dtype.

    Anybody may have written the folder. It runs no code and reaches no network. The config is
    checked against the archive before the model is built, see `hf_td.hub.untrusted`.

    Args:
        folder: a local folder, with a config.json and a model.archive.safetensors.
        limit: refuse a model whose weights take more bytes than this, as `load_archive` does.

    Raises:
        FileNotFoundError: the folder has no archive, or no config.json.
        ValueError: the archive is damaged or exceeds `limit`; the config names no model class of
            transformers, or its model has other tensors; or a file of the folder is malformed.
    """
    folder = Path(folder)
    path = folder / ARCHIVE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {ARCHIVE_NAME} in {folder}; expected an archive export"
        )
    description = read_description(path, limit=limit)
    held = {
        name: Held(entry.shape, DTYPES[entry.dtype])
        for entry in description.entries
        for name in entry.names
    }
    config, model_class = check_config(folder, held, limit)
    generation = _generation_config(folder)
    tensors = load_archive(path, limit=limit)
    with as_value_errors(f"{folder} holds no model that can be loaded"):
        model: Any = model_class.from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=config.dtype
        )
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.data = tensors[name].to(tensor.device)  # from_pretrained casts all to one dtype
    if generation is not None:
        model.generation_config = generation
    return model.eval()


def _generation_config(folder: Path) -> GenerationConfig | None:
    path = folder / GENERATION_CONFIG_NAME
    if not path.is_file():
        return None
    read_json_object(path, most=JSON_LIMIT)
    with as_value_errors(f"{path} is no config of generation"):
        return GenerationConfig.from_pretrained(folder, local_files_only=True)


FORM = Archive()
