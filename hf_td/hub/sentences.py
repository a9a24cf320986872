"""Carries along what a SentenceTransformer has beside its encoder: pooling, layers, prompts.

Its folder is that of the encoder, with a list of modules (modules.json) and a folder for each
further module. None of this depends on the widths of the encoder, so pruning leaves it as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from hf_td.anatomy import probe_inputs
from hf_td.files import MODULES, module_folders, read_json, read_json_object
from hf_td.hub.forms.form import Form
from hf_td.hub.verify import verify_way
from hf_td.hub.way import Way
from hf_td.modules.compact_layout import layout_of_model

_SETTINGS = "config_sentence_transformers.json"
# Files beside the encoder that sentence-transformers reads.
_FILES = (MODULES, _SETTINGS, "sentence_*_config.json")
# The classes that load such a folder, and the Hub's name of their task.
TASKS = {
    "SentenceTransformer": "sentence-similarity",
    "CrossEncoder": "text-ranking",
    "SparseEncoder": "feature-extraction",
}
PACKAGE = "sentence_transformers"


def is_sentence_model(model: Any) -> bool:
    """Return True for a model of sentence-transformers that begins with a Transformer."""
    first = model[0] if isinstance(model, nn.Sequential) and len(model) else None
    is_encoder = isinstance(getattr(first, "auto_model", None), PreTrainedModel)
    return is_encoder and hasattr(model, "save_pretrained")


def encoder_of(model: Any) -> Any:
    """Return the encoder of a SentenceTransformer, and any other model itself."""
    return model[0].auto_model if is_sentence_model(model) else model


def processor_of(model: Any) -> Any:
    """Return the tokenizer or processor of a SentenceTransformer; None of any other model."""
    return getattr(model, "tokenizer", None) if is_sentence_model(model) else None


def write_modules(model: Any, modules_from: str | Path | None, folder: Path) -> bool:
    """Write the modules beside an encoder, and its tokenizer where the model has it.

    Args:
        model: a SentenceTransformer, or an encoder.
        modules_from: the folder of a SentenceTransformer, for an encoder; None without one.
        folder: where the encoder will be saved.

    Returns:
        True if there are modules.

    Raises:
        ValueError: the model has modules of its own beside those of the folder, or as for
            `copy_modules`.
    """
    if is_sentence_model(model):
        if modules_from is not None:
            raise ValueError(
                f"{type(model).__name__} has modules of its own, and modules_from names others. "
                "Leave modules_from out, or give the encoder: model[0].auto_model"
            )
        with _encoder_not_saved(model):
            model.save_pretrained(str(folder), create_model_card=False)
        return True
    if modules_from is None:
        return False
    copy_modules(Path(modules_from), folder)
    return True


@contextmanager
def _encoder_not_saved(model: Any) -> Iterator[None]:
    """Let a save of a SentenceTransformer leave out the weights and the config of its encoder."""
    own = vars(encoder_of(model))
    before = {name: own[name] for name in ("save_pretrained",) if name in own}
    own["save_pretrained"] = lambda *args, **options: None
    try:
        yield
    finally:
        del own["save_pretrained"]
        own.update(before)


def copy_modules(source: Path, folder: Path) -> None:
    """Copy the modules beside an encoder, and their settings, from folder to folder.

    Raises:
        ValueError: the source lists no modules, a module outside of it, or one with code of its
            own.
    """
    if not (source / MODULES).is_file():
        raise ValueError(
            f"{source} has no {MODULES}, so it is no SentenceTransformer. Give a folder that "
            "SentenceTransformer.save_pretrained wrote, or leave modules_from out"
        )
    folders = module_folders(source)
    _check_no_code(source)
    for name in folders:
        if (source / name).is_dir():  # some modules have nothing to save, and no folder
            shutil.copytree(source / name, folder / name)
    for pattern in _FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def _check_no_code(source: Path) -> None:
    types = [str(module.get("type")) for module in read_json(source / MODULES)]
    foreign = [name for name in types if not name.startswith((f"{PACKAGE}.", "torch."))]
    if foreign:
        raise ValueError(
            f"{source} has the module {foreign[0]}, whose code is in the folder or elsewhere. Only "
            f"modules of {PACKAGE} are copied. Load it by SentenceTransformer, prune "
            "model[0].auto_model, and give the whole model to export_model"
        )


def find_modules(name: str, **options: Any) -> Path | None:
    """Return the folder that has the modules beside an encoder; None for an encoder alone.

    Args:
        name: a folder, or an id on the Hub, whose modules are downloaded.
        options: `revision`, `token`, `cache_dir` and `local_files_only` of `from_pretrained`.

    Raises:
        ValueError: the list of modules cannot be read.
    """
    found = cached_file(
        name,
        MODULES,
        **options,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    folder = Path(found).parent
    if not Path(name).is_dir():
        inside = [f"{module}/*" for module in module_folders(folder)]
        snapshot_download(name, allow_patterns=[*_FILES, *inside], **options)
    return folder


def loader_in(folder: Path) -> str:
    """Return the class that loads a folder of sentence-transformers.

    Raises:
        ValueError: the settings in the folder are damaged.
    """
    path = folder / _SETTINGS
    named = read_json_object(path).get("model_type") if path.is_file() else None
    return named if isinstance(named, str) and named in TASKS else "SentenceTransformer"


def sentence_way(exported: Any, loader: str) -> Way:
    """Return the way in which sentence-transformers loads an export.

    Args:
        exported: the encoder as it was written.
        loader: a key of `TASKS`.
    """
    trust = "" if layout_of_model(exported) is None else ", trust_remote_code=True"
    return Way(
        name=PACKAGE,
        package=PACKAGE,
        loader=loader,
        call=f"{loader}(model_id{trust})",
        without_hf_td=True,
    )


def loads_sentences(form: Form, exported: Any) -> bool:
    """Return True if sentence-transformers loads a form: it does so by `from_pretrained`."""
    return any(way.package == "transformers" for way in form.ways(exported))


def check_sentence_way(
    model: Any, folder: Path, way: Way, example_inputs: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Load an export by sentence-transformers, and compare what its encoder computes.

    Args:
        model: the caller's encoder.
        folder: that holds the export.
        way: what `sentence_way` returned.
        example_inputs: of one forward, or None to make some.

    Returns:
        The name of the way; nothing where sentence-transformers is not installed.

    Raises:
        RuntimeError: as for `verify_way`.
    """
    if find_spec(PACKAGE) is None:
        return ()
    encoder = replace(way, call=f"{way.call.removesuffix(')')}, device='cpu')[0].auto_model")
    inputs = probe_inputs(model) if example_inputs is None else example_inputs
    verify_way(model, folder, encoder, inputs)
    return (way.name,)
