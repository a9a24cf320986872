"""Loading from the Hub or its cache, and quick failure without a network."""

import json
import os
import subprocess
import sys
import time

import datasets
import pytest
from datasets import config
from datasets.arrow_writer import ArrowWriter

from hf_td.tasks.data import hub
from hf_td.tasks.glue.loading import load_glue


def run(program, tmp_path, *arguments, **environment):
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "HF_HOME": str(tmp_path), **environment}
    return subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)


FAILS_AT_ONCE = """
import json, time
from hf_td.tasks.glue.loading import load_glue
start = time.monotonic()
try:
    load_glue("rte")
except ConnectionError as error:
    print(json.dumps([time.monotonic() - start, str(error)]))
"""


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "127.0.0.1:9 cannot be"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ],
    ids=["closed port", "offline mode"],
)
def test_no_network_fails_at_once(tmp_path, environment, reason):
    seconds, message = json.loads(run(FAILS_AT_ONCE, tmp_path, **environment).stdout)
    assert seconds < 5
    assert reason in message
    assert "give a local folder with the data" in message
    assert "acceptability" in message


CACHES = """
from hf_td.tasks.glue.loading import load_glue
data = load_glue("rte", "some/glue")
assert data["train"]["label"][:] == [0, 1]
"""


def test_cached_data_load_without_network(tmp_path):
    cache = tmp_path / "datasets" / "some___glue" / "rte" / "0.0.0" / "abc"
    cache.mkdir(parents=True)
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    split = datasets.Dataset.from_dict(columns)
    names = {"train": "glue-train.arrow", "validation": "glue-validation.arrow"}
    for name in names.values():
        with ArrowWriter(path=str(cache / name), features=split.features) as w:
            w.write_table(split.data.table)
            w.finalize()
    infos = {name: {"name": name, "num_examples": 2, "dataset_name": "glue"} for name in names}
    info = {"features": split.features.to_dict(), "splits": infos, "config_name": "rte"}
    (cache / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "glue"}))
    start = time.monotonic()
    run(CACHES, tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert time.monotonic() - start < 20


def test_a_slow_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda url, seconds: time.sleep(2) or True)
    start = time.monotonic()
    assert not hub.is_reachable("http://example.invalid", seconds=0.2)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (FileNotFoundError("x"), FileNotFoundError, "neither a local folder nor a data set"),
        (ConnectionError("x"), ConnectionError, "the connection broke"),
        (ValueError("BuilderConfig 'cola' not found"), ValueError, "BuilderConfig 'cola'"),
    ],
)
def test_errors_of_the_hub(monkeypatch, raised, expected, message):
    def fail(*_):
        raise raised

    monkeypatch.setattr(hub, "is_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    with pytest.raises(expected, match=message):
        load_glue("cola", "some/data")
