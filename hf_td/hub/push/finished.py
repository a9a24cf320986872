"""Checks that a folder is a finished export."""

from __future__ import annotations

from pathlib import Path

from hf_td.drafts import PRIVATE
from hf_td.files import read_json_object
from hf_td.hub.forms import FORMS, load_form


def check_finished(folder: Path) -> None:
    """Raise ValueError unless a folder holds a config and whole weights, and is not temporary.

    Links in it may not lead outside.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give the folder of an export")
    if folder.name.startswith(".") or folder.parent.name.endswith(PRIVATE):
        raise ValueError(f"{folder} is a temporary folder of an export that did not finish")
    _check_config(folder / "config.json")
    check_own_files(folder)
    forms = [load_form(name) for name in FORMS]
    form = next((form for form in forms if form.weights(folder)), None)
    if form is None:
        names = list(dict.fromkeys(form.files[0] for form in forms))
        raise ValueError(f"{folder} is no finished export: it has none of {names}")
    for file in form.weights(folder):
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        form.check_weights(file)


def check_own_files(folder: Path) -> None:
    """Raise ValueError if a link in a folder leads outside: what it points to would be sent."""
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside of the folder. Only files of the "
                "folder are published. Put a copy in place of the link, or remove it"
            )


def _check_config(path: Path) -> None:
    try:
        config = read_json_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.parent} is no finished export: config.json cannot be read ({error})"
        ) from error
    if "model_type" not in config:
        raise ValueError(f"{path} is no config of a model: it has no model_type")
