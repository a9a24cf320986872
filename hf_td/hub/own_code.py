"""Checks that the code which a model's files name is the model's own.

`trust_remote_code=True` trusts one repository. Its config may name code of another, which
transformers would run as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from hf_td.files import read_json_object
from hf_td.hub.untrusted import JSON_LIMIT
from hf_td.modules.compact_file import FILE, loader_source
from hf_td.modules.compact_saving import AUTO_MAP

# The files whose `auto_map` names code.
_NAMING = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_REFERENCE = re.compile(r"(?:(?P<repo>.+)--)?(?P<module>[^\W\d]\w*)\.[^\W\d]\w*")
# The folder to which the links of a snapshot in the Hub's cache lead.
_BLOBS = "../../blobs"


def check_own_code(name: str, **options: Any) -> None:
    """Raise ValueError unless all code that a model's files name lies beside them.

    Args:
        name: a folder, or an id on the Hub.
        options: `revision`, `token`, `cache_dir` and `local_files_only` of `from_pretrained`.

    Raises:
        ValueError: a file names code of another repository, by a path, or by a link that leads
            out of the folder.
    """
    for file in _NAMING:
        found = cached_file(
            name,
            file,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None:
            for reference in _references(read_json_object(found, most=JSON_LIMIT).get("auto_map")):
                _check(reference, Path(found), name)


def _references(value: Any) -> Iterator[Any]:
    """Yield the names of classes in an `auto_map`, which nests them in lists and mappings."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _references(one)
    elif value is not None:
        yield value


def _check(reference: Any, file: Path, name: str) -> None:
    found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if found is None or found["repo"] not in (None, name):
        raise ValueError(
            f"auto_map in {file} names the code {reference!r}, which is not beside it. Only code "
            f"of {name} itself is run, named as module.Class. If you trust the other code, copy "
            "its files into the folder and name them so"
        )
    module = file.with_name(f"{found['module']}.py")
    inside = (file.parent.resolve(), (file.parent / _BLOBS).resolve())
    if module.is_symlink() and not any(module.resolve().is_relative_to(one) for one in inside):
        raise ValueError(
            f"{module} is a link to {module.resolve()}, outside of the folder. Only code of the "
            "folder is run. Put a copy in place of the link"
        )


def check_own_loader(folder: Path) -> None:
    """Raise ValueError unless all code of a local compact export is the file that hf_td writes."""
    path = folder / "config.json"
    named = read_json_object(path, most=JSON_LIMIT).get("auto_map", AUTO_MAP)
    if named != AUTO_MAP:
        raise ValueError(
            f"auto_map in {path} should be {AUTO_MAP}, got {named!r}. Give --trust-remote-code if "
            "you trust this code: the check runs it"
        )
    loader = folder / FILE
    if loader.is_file() and loader.read_bytes() != loader_source().encode():
        raise ValueError(
            f"{loader} is not the file that this version of hf_td writes. Give --trust-remote-code "
            "if you trust it: the check runs it"
        )
