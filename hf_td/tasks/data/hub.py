"""Loads a data set from the Hugging Face Hub, or fails at once if the Hub cannot be reached.

The `datasets` library alone retries for about 25 seconds before it reads its cache or gives up.
Data sets on the Hub are read as data only; their code is never run.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import config

_CHECK_SECONDS = 4.0


def is_path(name: str) -> bool:
    """Return True if a name can only be a local path, not a Hub id."""
    looks_like_one = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1
    return looks_like_one or not name or name.endswith("/")


def load_from_hub(
    dataset_name: str, config_name: str | None, *, builtin: str, **options: Any
) -> datasets.DatasetDict:
    """Load one configuration of a Hub data set; from the cache if the Hub cannot be reached.

    `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.

    Args:
        dataset_name: Hub id, such as `nyu-mll/glue`.
        config_name: configuration, such as `mrpc`; None if there is only one.
        builtin: alternative that error messages suggest when there is no network.
        **options: arguments of `datasets.load_dataset`, such as `split`.

    Raises:
        ConnectionError: the Hub cannot be reached and the data are not in the cache.
        FileNotFoundError: the Hub has no such data set.
        ValueError: the data set has no such configuration.
    """
    place = _Place(dataset_name, config_name, builtin, options)
    if config.HF_HUB_OFFLINE:
        return _load_cached(place, "offline mode is on (HF_HUB_OFFLINE)")
    endpoint = config.HF_ENDPOINT
    if not is_reachable(endpoint):
        with _offline():
            return _load_cached(place, f"{endpoint} cannot be reached")
    return _load_online(place)


@dataclass(frozen=True)
class _Place:
    """A data set to load, and the alternative that error messages suggest."""

    name: str
    config: str | None
    builtin: str
    options: dict[str, Any]

    def load(self) -> Any:
        return datasets.load_dataset(self.name, self.config, **self.options)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.config})" if self.config else repr(self.name)


def is_reachable(url: str, seconds: float = _CHECK_SECONDS) -> bool:
    """Return True if a server answers at `url` within `seconds`, through the proxy if one is set.

    Resolving a host name has no time-out, so the check runs in a thread that is abandoned after
    `seconds`.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    check = threading.Thread(target=lambda: answers.put(_answers(url, seconds)), daemon=True)
    check.start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def _answers(url: str, seconds: float) -> bool:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True  # a server that refuses is reachable
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Make `datasets` read only its cache, as HF_HUB_OFFLINE=1 does."""
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _load_cached(place: _Place, reason: str) -> datasets.DatasetDict:
    try:
        return place.load()
    except (OSError, ValueError) as error:  # a ValueError: the configuration is not in the cache
        raise _no_connection(place, reason) from error


def _load_online(place: _Place) -> datasets.DatasetDict:
    try:
        return place.load()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{place.name!r} is neither a local folder nor a data set that can be read on the "
            f"Hugging Face Hub ({config.HF_ENDPOINT}). Give the path of a folder, an id on the "
            f"Hub, or {place.builtin}."
        ) from error
    except ConnectionError as error:
        raise _no_connection(place, "the connection broke") from error


def _no_connection(place: _Place, reason: str) -> ConnectionError:
    return ConnectionError(
        f"Cannot load {place} from the Hugging Face Hub: {reason}. The data are not in the cache, "
        "and no local folder has this name. Without a network, give a local folder with the data, "
        f"or use {place.builtin}."
    )
