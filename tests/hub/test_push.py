"""Publishing to and loading from a Hub on this machine, by the real client."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import hf_td
from hf_td.hub import export_model, push_to_hub
from hf_td.hub.integrity import check_downloads
from hf_td.hub.push import ATTEMPTS, LONGEST_WAIT
from tests.hub.loopback import Fault, LoopbackHub
from tests.tiny import tiny_inputs, tiny_model

# huggingface_hub sends large files by a spelling that its own HTTP client calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.usefixtures("hub"),
]

REPO = "someone/tiny"
COMMIT = "/commit/"
WEIGHTS = "resolve/.*/model.safetensors"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture(scope="module")
def model() -> Any:
    """Pruned at the unit level."""
    pruned = tiny_model("bert")
    hf_td.prune_model(pruned, 0.5, level="unit")
    return pruned


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its compact export."""
    target = tmp_path_factory.mktemp("exports") / "compact"
    return export_model(model, target, form="compact", check=False).folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def outputs_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model)).logits


def load(cache: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(REPO, cache_dir=cache)


def cached_weights(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name == "model.safetensors"]


# Publishing.


def test_a_push_publishes_the_whole_folder_in_one_commit(hub, folder):
    before = hub.requests.copy()
    info = push_to_hub(folder, REPO, private=True, commit_message="Smaller", token="hf_x")
    assert hub.files(REPO) == content_of(folder)
    assert {"README.md", "config.json", "model.safetensors", "modeling_hf_td.py"} <= hub.files(
        REPO
    ).keys()
    assert len(hub.repositories[REPO].commits) == 2  # the Hub's own first one, and this
    assert info.oid == hub.repositories[REPO].branches["main"]
    assert info.commit_message == "Smaller"
    assert hub.repositories[REPO].private
    assert not before


def test_an_export_is_pushed_as_its_folder_is(hub, model, tmp_path):
    export = export_model(model, tmp_path / "stock", form="padded", check=False)
    push_to_hub(export, "tiny")
    assert hub.files(REPO) == content_of(export.folder)


def test_pushing_the_same_again_makes_no_commit(hub, folder):
    first = push_to_hub(folder, REPO)
    assert push_to_hub(folder, REPO).oid == first.oid
    assert len(hub.repositories[REPO].commits) == 2


def test_what_an_earlier_export_left_goes_in_the_same_commit(hub, folder, model, tmp_path):
    push_to_hub(folder, REPO)
    hub.repositories[REPO].commit("main", {**hub.files(REPO), "notes.md": b"mine"})
    stock = export_model(model, tmp_path / "stock", form="padded", check=False).folder
    push_to_hub(stock, REPO)
    assert hub.files(REPO) == {**content_of(stock), "notes.md": b"mine"}


def test_a_revision_is_a_branch_that_is_made_where_it_is_missing(hub, folder):
    for _ in range(2):
        push_to_hub(folder, REPO, revision="half")
    assert hub.files(REPO) == {}
    assert hub.files(REPO, "half") == content_of(folder)


def test_a_pull_request_leaves_the_branch_alone(hub, folder):
    info = push_to_hub(folder, REPO, create_pr=True)
    assert hub.files(REPO) == {}
    assert hub.files(REPO, "refs/pr/1") == content_of(folder)
    assert info.pr_url is not None


def test_hidden_files_stay_at_home(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "secret").write_text("x", encoding="utf-8")
    push_to_hub(copy, REPO)
    assert hub.files(REPO) == content_of(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{}"), "it has no model_type"),
        (lambda f: (f / "config.json").write_text('{"mod'), "config.json cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-1]
            ),
            "is not a whole safetensors file",
        ),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_an_unfinished_folder_is_refused_before_anything_is_sent(
    hub, folder, tmp_path, spoil, message
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        push_to_hub(copy, REPO)
    assert not hub.requests


def test_a_missing_shard_is_noticed(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"weight_map": names})
    (copy / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(ValueError, match=r"00002-of-00002.safetensors is missing"):
        push_to_hub(copy, REPO)
    assert not hub.requests


def test_a_temporary_folder_is_refused(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / ".model.x1y2")
    with pytest.raises(ValueError, match="temporary folder of an export that did not finish"):
        push_to_hub(copy, REPO)
    assert not hub.requests


# What goes wrong while publishing. Afterwards the repository has all of the commit, or none.

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


def fresh(fault: Fault) -> Fault:
    return Fault(**{**vars(fault), "seen": 0})


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
        r"does not speak the language of the Hub.*not known.*pushing again is safe",
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


def test_a_pull_request_from_a_branch_is_an_error_at_once(hub, folder):
    with pytest.raises(ValueError, match="a pull request is made for main"):
        push_to_hub(folder, REPO, revision="half", create_pr=True)
    assert not hub.requests


def test_a_wrong_name_is_an_error_at_once(hub, folder):
    with pytest.raises(ValueError, match="Repo id must"):
        push_to_hub(folder, "a/b/c")
    assert not hub.requests


# Loading what was published, in fresh processes.

LOAD = """
import sys
way, repo, inputs, outputs = sys.argv[1:]
if way == "hf_td":
    import hf_td
else:
    sys.modules["hf_td"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
if way != "hf_td":  # with neither of the two it must not load
    try:
        AutoModelForSequenceClassification.from_pretrained(repo)
    except Exception as error:
        print(type(error).__name__, error)
    else:
        sys.exit("it loaded without hf_td and without trust_remote_code")
trust = way == "remote_code"
model = AutoModelForSequenceClassification.from_pretrained(repo, trust_remote_code=trust)
with torch.no_grad():
    save_file({"logits": model.eval()(**load_file(inputs)).logits}, outputs)
"""


@pytest.mark.parametrize("way", ["hf_td", "remote_code"])
def test_a_fresh_process_loads_what_was_pushed(hub, folder, model, tmp_path, way):
    push_to_hub(folder, REPO)
    inputs = tiny_inputs(model)
    save_file(inputs, tmp_path / "in.safetensors")
    paths = [str(tmp_path / name) for name in ("in.safetensors", "out.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, way, REPO, *paths],
        env={**environment(hub, tmp_path), "PYTHONPATH": str(Path(hf_td.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("RuntimeError" in done.stdout) == (way == "remote_code")  # the load with neither
    torch.testing.assert_close(load_file(paths[1])["logits"], outputs_of(model))


def environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **settings}


# What goes wrong while downloading. Nothing that is damaged stays for a later load.


def test_a_download_that_breaks_off_once_goes_on(hub, folder, model, tmp_path, waits):
    push_to_hub(folder, REPO)
    hub.faults = [Fault("GET", WEIGHTS, "stall")]
    torch.testing.assert_close(outputs_of(load(tmp_path)), outputs_of(model))
    assert hub.count("GET", WEIGHTS) == 2


# What the client itself notices: the error is loud, and nothing is kept.
NOTICED = {
    "weights 404": (Fault("HEAD", WEIGHTS, status=404, times=99), "does not appear to have a file"),
    "weights 500": (Fault("GET", WEIGHTS, status=500, times=99), "500"),
    "weights short": (Fault("GET", WEIGHTS, "short", times=99), "should be of size"),
    "weights cut": (Fault("GET", WEIGHTS, "lost", times=99), "Can't load the model"),
    "config short": (Fault("GET", "resolve/.*/config.json", "short", times=99), "Consistency"),
}


@pytest.mark.parametrize("name", NOTICED)
def test_a_failed_download_is_loud_and_leaves_nothing(hub, folder, model, tmp_path, waits, name):
    push_to_hub(folder, REPO)
    fault, message = NOTICED[name]
    hub.faults = [fresh(fault)]
    with pytest.raises(OSError, match=message):
        load(tmp_path)
    assert not cached_weights(tmp_path)
    hub.faults = []
    torch.testing.assert_close(outputs_of(load(tmp_path)), outputs_of(model))


def test_huggingface_hub_does_not_notice_a_flipped_bit(hub, folder, tmp_path):
    push_to_hub(folder, REPO)
    hub.faults = [Fault("GET", WEIGHTS, "corrupt")]
    file = Path(hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path))
    assert file.read_bytes() != (folder / "model.safetensors").read_bytes()


def test_hf_td_notices_it_and_clears_the_cache(hub, folder, model, tmp_path):
    push_to_hub(folder, REPO)
    hub.faults = [Fault("GET", WEIGHTS, "corrupt")]
    with pytest.raises(OSError, match=r"model.safetensors is not what the Hub has.*load again"):
        load(tmp_path)
    assert not cached_weights(tmp_path)
    torch.testing.assert_close(outputs_of(load(tmp_path)), outputs_of(model))


def test_files_outside_the_cache_are_not_looked_at(folder):
    check_downloads(folder.glob("*.safetensors"))
    check_downloads(None)


@pytest.mark.skipif(not importlib.util.find_spec("hf_xet"), reason="needs hf_xet")
def test_a_push_by_xet_is_one_commit_too(hub, folder, monkeypatch):
    """With hf_xet, `upload_folder` of huggingface_hub may split a push into several commits."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("tests.hub.loopback.is_large", lambda path: False)
    push_to_hub(folder, REPO)
    assert len(hub.repositories[REPO].commits) == 2
