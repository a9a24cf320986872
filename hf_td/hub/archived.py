"""Models whose weights are kept in a lossless archive: for unstructured sparsity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from hf_td.hub.archive import LIMIT, load_archive, save_archive
from hf_td.hub.weights import ARCHIVE_NAME


def write_archived_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the config and the archive of a model."""
    model.config.dtype = model.dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_archive(model.state_dict(), folder / ARCHIVE_NAME)


def load_archived_model(folder: str | Path, *, limit: int = LIMIT) -> Any:
    """The model of an export in the form `archive`, bit for bit, each tensor in its own type.

    Args:
        folder: a local folder with a config.json and a model.hftd.
        limit: refuse a model whose weights take more bytes than this, as `load_archive` does.

    Raises:
        FileNotFoundError: the folder has no archive.
        ValueError: the archive is damaged, or the config names no model class of transformers.
    """
    path = Path(folder) / ARCHIVE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {ARCHIVE_NAME} in {folder}; expected an archive export"
        )
    config = AutoConfig.from_pretrained(folder)
    tensors = load_archive(path, limit=limit)
    model: Any = _model_class(config).from_pretrained(
        None, config=config, state_dict=dict(tensors), dtype=config.dtype
    )
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensors[name].to(tensor.device)  # from_pretrained gives all of them one type
    if (Path(folder) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _model_class(config: Any) -> type[PreTrainedModel]:
    names = config.architectures or [None]
    found = getattr(transformers, str(names[0]), None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(f"config.json names {names[0]!r}, which is no model class of transformers")
    return found
