"""After any failure of publishing, the repository has all of the commit or none of it."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import constants

from hf_td.hub import export_model, push_to_hub
from hf_td.hub.push.commit import ATTEMPTS, LONGEST_WAIT
from tests.hub.loopback import Fault
from tests.hub.push.published import ON_A_LOOPBACK_HUB, REPO, content_of, fresh

pytestmark = ON_A_LOOPBACK_HUB

COMMIT = "/commit/"

PASSING = {
    "create 503": Fault("POST", "repos/create", status=503, times=2),
    "create cut": Fault("POST", "repos/create", "cut"),
    "validate 500": Fault("POST", "validate-yaml", times=2),
    "validate by a proxy": Fault("POST", "validate-yaml", status=503, body=b"<html>"),
    "tree 502": Fault("GET", "/tree/", status=502),
    "preupload 500": Fault("POST", "preupload", times=3),
    "batch 503": Fault("POST", "objects/batch", status=503, times=2),
    "upload 500": Fault("PUT", "/lfs/", times=2),
    "upload cut": Fault("PUT", "/lfs/", "cut", times=2),
    "upload unanswered": Fault("PUT", "/lfs/", "lost"),
    "verify 429": Fault("POST", "/verify", status=429, headers={"Retry-After": "1"}),
    "commit 429": Fault("POST", COMMIT, status=429, headers={"Retry-After": "7"}, times=2),
    "commit 503": Fault("POST", COMMIT, status=503, times=ATTEMPTS - 1),
    "commit cut": Fault("POST", COMMIT, "cut", times=2),
    "commit unanswered": Fault("POST", COMMIT, "lost"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for(hub, folder, waits, name):
    hub.faults = [fresh(PASSING[name])]
    info = push_to_hub(folder, REPO)
    assert hub.files(REPO) == content_of(folder)
    assert len(hub.repositories[REPO].commits) == 2  # an unanswered commit is not made twice
    assert info.oid == hub.repositories[REPO].branches["main"]
    assert waits


def test_retry_after_is_obeyed(hub, folder, waits):
    hub.faults = [fresh(PASSING["commit 429"])]
    push_to_hub(folder, REPO)
    assert waits == [7.0, 7.0]


def test_a_wait_of_hours_is_an_error_at_once(hub, folder, waits):
    asked = str(int(LONGEST_WAIT) + 1)
    hub.faults = [Fault("POST", COMMIT, status=429, headers={"Retry-After": asked}, times=99)]
    with pytest.raises(RuntimeError, match=rf"asks to wait, for {asked} s.*Nothing was published"):
        push_to_hub(folder, REPO)
    assert waits == []


def test_the_hubs_own_rate_limit_header_is_obeyed(hub, folder, waits):
    headers = {"ratelimit": '"api";r=0;t=11'}
    hub.faults = [Fault("POST", COMMIT, status=429, headers=headers)]
    push_to_hub(folder, REPO)
    assert waits == [11.0]


# Fault, error, message, and what is said of the state.
LASTING: dict[str, tuple[Fault, type[Exception], str]] = {
    "create 401": (
        Fault("POST", "repos/create", status=401, times=99),
        PermissionError,
        r"does not know who you are: log in with `hf auth login`.*Nothing was published",
    ),
    "create 403": (
        Fault("POST", "repos/create", status=403, times=99),
        PermissionError,
        r"needs write access.*settings/tokens.*Nothing was published",
    ),
    "preupload 403": (
        Fault("POST", "preupload", status=403, times=99),
        PermissionError,
        r"could not commit \(someone/tiny\).*needs write access.*Nothing was published",
    ),
    "commit 401": (
        Fault("POST", COMMIT, status=401, times=99),
        PermissionError,
        r"hf auth login.*Nothing was published",
    ),
    "commit 409": (
        Fault("POST", COMMIT, status=409, times=99),
        RuntimeError,
        r"somebody else is changing the repository right now \(409\)\. Nothing was published",
    ),
    "commit 429": (
        Fault("POST", COMMIT, status=429, times=99),
        RuntimeError,
        r"asks to wait \(429.*Nothing was published",
    ),
    "commit 500": (
        Fault("POST", COMMIT, status=500, times=99),
        RuntimeError,
        r"500.*Whether the commit was made is not known.*pushing again is safe",
    ),
    "commit cut": (
        Fault("POST", COMMIT, "cut", times=99),
        ConnectionError,
        r"it broke off.*Whether the commit was made is not known.*pushing again is safe",
    ),
    "commit by a proxy": (
        Fault("POST", COMMIT, status=200, body=b"<html>", times=99),
        RuntimeError,
        r"the answer is not the Hub's.*not known.*pushing again is safe",
    ),
    "upload cut": (
        Fault("PUT", "/lfs/", "cut", times=99),
        ConnectionError,
        r"could not commit.*it broke off.*Nothing was published",
    ),
    "upload 500": (
        Fault("PUT", "/lfs/", status=500, times=99),
        RuntimeError,
        r"500.*Nothing was published",
    ),
    "validate cut": (
        Fault("POST", "validate-yaml", "cut", times=99),
        ConnectionError,
        r"it broke off.*Nothing was published",
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_an_error_that_says_what_is_published(hub, folder, model, waits, name):
    fault, kind, message = LASTING[name]
    hub.faults = [fresh(fault)]
    with pytest.raises(kind, match=re.compile(message, re.DOTALL)):
        push_to_hub(folder, REPO)
    assert REPO not in hub.repositories or hub.files(REPO) == {}
    assert len(waits) < 10
    hub.faults = []
    push_to_hub(folder, REPO)
    assert hub.files(REPO) == content_of(folder)


def test_what_the_client_repeats_is_not_repeated_again(hub, folder, waits):
    hub.faults = [Fault("POST", "preupload", times=99)]
    with pytest.raises(RuntimeError, match="Nothing was published"):
        push_to_hub(folder, REPO)
    assert hub.count("POST", "preupload") == 6  # once, and five times by huggingface_hub


def test_an_unanswered_pull_request_is_not_opened_twice(hub, folder, waits):
    hub.faults = [Fault("POST", COMMIT, "lost", times=99)]
    with pytest.raises(ConnectionError, match=r"not known.*look before you push again"):
        push_to_hub(folder, REPO, create_pr=True)
    assert hub.count("POST", COMMIT) == 1


def test_an_old_state_survives_a_failed_push(hub, folder, model, tmp_path, waits):
    push_to_hub(folder, REPO)
    stock = export_model(model, tmp_path / "stock", form="padded", check=False).folder
    hub.faults = [Fault("POST", COMMIT, "cut", times=99)]
    with pytest.raises(ConnectionError, match="broke off"):
        push_to_hub(stock, REPO)
    assert hub.files(REPO) == content_of(folder)


def test_without_a_network_the_error_comes_at_once(folder, waits, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"no connection to the Hub.*Nothing was published"):
        push_to_hub(folder, REPO)
    assert waits == []


def test_offline_mode_is_an_error_at_once(folder, waits, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="offline mode is enabled"):
        push_to_hub(folder, REPO)
