"""Loading what was published: in fresh processes, and by downloads that go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import hf_td
from hf_td.hub import push_to_hub
from hf_td.hub.downloads import check_downloads
from tests.hub.loopback import Fault, LoopbackHub
from tests.hub.push.published import ON_A_LOOPBACK_HUB, REPO, fresh, outputs_of
from tests.tiny import tiny_inputs

pytestmark = ON_A_LOOPBACK_HUB

WEIGHTS = "resolve/.*/model.safetensors"


def load(cache: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(REPO, cache_dir=cache)


def cached_weights(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name == "model.safetensors"]


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


# Nothing that is damaged stays for a later load.


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
