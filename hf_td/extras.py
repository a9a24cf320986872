"""Packages that only some rooms need, and the extras that install them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def install(name: str) -> str:
    """Return the command that installs an extra: hf_td is installed from a clone."""
    return f"pip install '.[{name}]' in the clone of hf_td"


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an extra inside this context; a missing one names the extra.

    Args:
        name: an extra of pyproject.toml.

    Raises:
        ImportError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed. It comes with the extra {name!r} of hf_td. "
            f"Run {install(name)}.",
            name=error.name,
        ) from error
