"""Parses settings of the form name=value,name=value."""

from __future__ import annotations

from typing import Any

from hf_td.tasks.errors import UsageError
from hf_td.tasks.plain_values import parse_yaml


def parse_pairs(text: str | None, option: str) -> dict[str, Any]:
    """Parse names and values; a value is a number, true, false, null or text.

    Args:
        text: such as `hidden_size=32,eps=1e-5`; None is empty.
        option: option with this text, for the message.

    Raises:
        UsageError: the text has another form.
    """
    pairs = [item.partition("=") for item in (text or "").split(",") if item]
    if not all(name and equals for name, equals, _ in pairs):
        raise UsageError(f"{option} is name=value,name=value. Got {text!r}.")
    try:
        return {name.strip(): _value(value) for name, _, value in pairs}
    except ValueError as error:
        raise UsageError(f"{option} is name=value,name=value. Got {text!r}: {error}") from error


def _value(text: str) -> Any:
    value = parse_yaml(text)
    if isinstance(value, str):  # YAML reads 1.0e-5 as a number, but not 1e-5
        try:
            return float(value)
        except ValueError:
            return value
    return value
