"""Decides when to publish again after an error, and explains the errors that last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError

from huggingface_hub.utils import parse_ratelimit_headers

from hf_td.extras import extra

with extra("hub"):
    import httpx2

# Requests that huggingface_hub itself repeats, five times, after a 429, a 5xx or a broken
# connection. It repeats neither the commit nor the requests around it.
_REPEATED_ALREADY = ("/preupload/", ".git/info/lfs/")


@dataclass(frozen=True)
class Attempt:
    """A request to the Hub.

    Attributes:
        repo_id: of the repository.
        what: is requested, for messages.
        repeatable: True for a request that is idempotent.
    """

    repo_id: str
    what: str
    repeatable: bool = True

    def wait_after(self, error: Exception, times: int) -> float | None:
        """Return the seconds to wait after so many failures; None where waiting does not help."""
        status = _status(error)
        if _was_repeated(error) or isinstance(error, httpx2.ConnectError):
            return None  # without a network, waiting a little does not help
        if status == 429 or (self.repeatable and _is_passing(error, status)):
            return _retry_after(error) or 2.0 ** (times - 1)
        return None

    def explain(self, error: Exception) -> Exception | None:
        """Return an error that says what happened, what is on the Hub now, and what to do.

        Return None for an error that needs no explanation, such as offline mode.
        """
        if not isinstance(error, (httpx2.HTTPError, RuntimeError, JSONDecodeError)):
            return None
        kind, reason = self._reason(error)
        return kind(f"could not {self.what} ({self.repo_id}): {reason}. {self._state(error)}")

    def _reason(self, error: Exception) -> tuple[type[Exception], str]:
        status = _status(error)
        if status in _REFUSALS:
            return PermissionError, f"{_REFUSALS[status]} ({status})"
        if status is None and isinstance(_http_error(error), httpx2.TransportError):
            return ConnectionError, f"no connection to the Hub, or it broke off: {_text(error)}"
        if status in _CLASHES:
            return RuntimeError, f"somebody else is changing the repository right now ({status})"
        if status == 429:
            wait = _retry_after(error)
            asked = f", for {wait:.0f} s" if wait else ""
            return RuntimeError, f"the Hub asks to wait{asked} (429, too many requests)"
        if isinstance(error, JSONDecodeError):
            return RuntimeError, "the answer is not the Hub's; a proxy may have sent it"
        return RuntimeError, _text(error)

    def _state(self, error: Exception) -> str:
        """Return what is published: a commit whose answer was lost may have been made."""
        path = _path(error)
        asked = self.what == "commit" and (not path or "/commit/" in path)
        if not (asked and _is_passing(error, _status(error))):
            return "Nothing was published"
        again = "pushing again is safe" if self.repeatable else "look before you push again"
        return f"Whether the commit was made is not known (all of it, or nothing): {again}"


_REFUSALS = {
    401: "the Hub does not know who you are: log in with `hf auth login`, set HF_TOKEN, or pass "
    "token=",
    403: "your token may not do that: it needs write access to the repository, see "
    "https://huggingface.co/settings/tokens",
}
_CLASHES = (409, 412)


def _errors(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_error(error: Exception) -> httpx2.HTTPError | None:
    return next((e for e in _errors(error) if isinstance(e, httpx2.HTTPError)), None)


def _text(error: Exception) -> str:
    return str(_http_error(error) or error).strip(" .\n")


def _response(error: Exception) -> httpx2.Response | None:
    return getattr(_http_error(error), "response", None)


def _status(error: Exception) -> int | None:
    response = _response(error)
    return None if response is None else response.status_code


def _path(error: Exception) -> str:
    """Return the path of the requested URL; empty where it is not known."""
    response = _response(error)  # an HfHubHTTPError loses its own `request` in its constructor
    request = response.request if response is not None else _request(error)
    return "" if request is None else request.url.path


def _request(error: Exception) -> httpx2.Request | None:
    try:
        return getattr(_http_error(error), "request", None)
    except RuntimeError:  # httpx has no request for this error
        return None


def _was_repeated(error: Exception) -> bool:
    in_upload = isinstance(error, RuntimeError)  # the PUT of a large file
    return in_upload or any(part in _path(error) for part in _REPEATED_ALREADY)


def _is_passing(error: Exception, status: int | None) -> bool:
    """Return True for an error that may be gone in a moment."""
    if isinstance(error, JSONDecodeError):  # a proxy's page in place of the Hub's answer
        return True
    if status is not None:
        return status >= 500
    return isinstance(_http_error(error), httpx2.TransportError)


def _retry_after(error: Exception) -> float | None:
    response = _response(error)
    if response is None:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdigit() else None
