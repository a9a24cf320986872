"""Loads a data set from the Hugging Face Hub, or says at once that the Hub cannot be reached.

Without this the `datasets` library retries for about 25 seconds before it looks into its cache or
gives up. Data sets on the Hub are read as data only; no code of theirs is ever run.
"""

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
    """Whether a name can only be that of a folder or file, and no id on the Hub."""
    looks_like_one = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1
    return looks_like_one or not name or name.endswith("/")


def load_from_hub(
    dataset_name: str, config_name: str | None, *, builtin: str, **options: Any
) -> datasets.DatasetDict:
    """Load one configuration of a Hub data set, from the cache where the Hub cannot be reached.

    `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.

    Args:
        dataset_name: The Hub id, such as `nyu-mll/glue`.
        config_name: The configuration, such as `mrpc`; None for the only one.
        builtin: The option for data that need no network, for the messages.
        **options: For `datasets.load_dataset`, such as `split`.

    Raises:
        ConnectionError: The Hub cannot be reached and the data are not in the cache.
        FileNotFoundError: The Hub has no such data set.
        ValueError: The data set has no such configuration.
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
    """What is loaded, and the option that names what could be loaded instead."""

    name: str
    config: str | None
    builtin: str
    options: dict[str, Any]

    def load(self) -> Any:
        return datasets.load_dataset(self.name, self.config, **self.options)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.config})" if self.config else repr(self.name)


def is_reachable(url: str, seconds: float = _CHECK_SECONDS) -> bool:
    """Whether a server answers at `url` within `seconds`, through the proxy if one is set.

    The look-up of a host name has no time-out of its own, so the check runs in a thread that is
    left behind when the time is up.
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
        return True  # an error page is an answer too
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` look into its cache at once, as with HF_HUB_OFFLINE=1."""
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _load_cached(place: _Place, reason: str) -> datasets.DatasetDict:
    """Load from the cache. A configuration that is not in it is a ValueError of `datasets`."""
    try:
        return place.load()
    except (OSError, ValueError) as error:
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
        f"Cannot load {place} from the Hugging Face Hub: {reason}, the data are not in the cache, "
        "and there is no local folder of that name. Without a network, give a folder with the data "
        f"(--dataset_name <local folder>) or use {place.builtin}."
    )
