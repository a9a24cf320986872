"""Reads YAML and JSON that people write by hand, with bounded work for what they did not mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hf_td.files import parse_json
from hf_td.tasks.errors import UsageError

# The most values of a file, aliases counted as often as they are used.
_MOST_VALUES = 100_000


def read_values(path: Path) -> Any:
    """Return what a .json, .yaml or .yml file holds.

    Raises:
        UsageError: it cannot be read, is not valid, is not in UTF-8, or holds too many values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except FileNotFoundError as error:
        raise UsageError(f"the file {path} does not exist. Give an existing file.") from error
    except (OSError, ValueError) as error:
        kind = path.suffix.removeprefix(".") or "YAML"
        raise UsageError(f"{path} is not valid {kind}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        ValueError: the document is not valid, nested too deeply, or holds too many values.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    _check_size(value)
    return value


def _check_size(value: Any) -> None:
    """Raise ValueError for too many values: each alias multiplies what it stands for."""
    left, count = [value], 0
    while left:
        one = left.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values, with aliases written out")
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
