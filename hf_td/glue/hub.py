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

import datasets
from datasets import config

_CHECK_SECONDS = 4.0


def load_from_hub(dataset_name: str, config_name: str) -> datasets.DatasetDict:
    """Load one configuration of a Hub data set, from the cache where the Hub cannot be reached.

    `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.

    Args:
        dataset_name: The Hub id, such as `nyu-mll/glue`.
        config_name: The configuration, such as `mrpc`.

    Raises:
        ConnectionError: The Hub cannot be reached and the data are not in the cache.
        FileNotFoundError: The Hub has no such data set.
        ValueError: The data set has no such configuration.
    """
    if config.HF_HUB_OFFLINE:
        return _load_cached(dataset_name, config_name, "offline mode is on (HF_HUB_OFFLINE)")
    endpoint = config.HF_ENDPOINT
    if not is_reachable(endpoint):
        with _offline():
            return _load_cached(dataset_name, config_name, f"{endpoint} cannot be reached")
    return _load_online(dataset_name, config_name)


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


def _load_cached(dataset_name: str, config_name: str, reason: str) -> datasets.DatasetDict:
    """Load from the cache. A configuration that is not in it is a ValueError of `datasets`."""
    try:
        return datasets.load_dataset(dataset_name, config_name)
    except (OSError, ValueError) as error:
        raise _no_connection(dataset_name, config_name, reason) from error


def _load_online(dataset_name: str, config_name: str) -> datasets.DatasetDict:
    try:
        return datasets.load_dataset(dataset_name, config_name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{dataset_name!r} is neither a local folder nor a data set that can be read on the "
            f"Hugging Face Hub ({config.HF_ENDPOINT}). Give the path of a folder, a Hub "
            "id such as 'nyu-mll/glue', or 'builtin'."
        ) from error
    except ConnectionError as error:
        raise _no_connection(dataset_name, config_name, "the connection broke") from error


def _no_connection(dataset_name: str, config_name: str, reason: str) -> ConnectionError:
    return ConnectionError(
        f"Cannot load {dataset_name!r} ({config_name}) from the Hugging Face Hub: {reason}, the "
        "data are not in the cache, and there is no local folder of that name. Without a network, "
        "give a folder with the data (--dataset_name <local folder>) or use the built-in task "
        "(--task_name acceptability)."
    )
