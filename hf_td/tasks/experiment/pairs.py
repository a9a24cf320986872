"""Settings on one line: name=value,name=value."""

from __future__ import annotations

from typing import Any

import yaml

from hf_td.tasks.experiment.errors import UsageError


def parse_pairs(text: str | None, option: str) -> dict[str, Any]:
    """Names and values, which are numbers, true, false, null or text.

    Args:
        text: such as `hidden_size=32,eps=1e-5`; empty where it is None.
        option: which was given so, for the message.

    Raises:
        UsageError: it is written otherwise.
    """
    pairs = [item.partition("=") for item in (text or "").split(",") if item]
    if not all(name and equals for name, equals, _ in pairs):
        raise UsageError(f"{option} is name=value,name=value; got {text!r}")
    return {name.strip(): _value(value) for name, _, value in pairs}


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML knows 1.0e-5, but not 1e-5
        try:
            return float(value)
        except ValueError:
            return value
    return value
