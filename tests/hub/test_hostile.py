"""Folders with an archive that anybody wrote: documented errors, in little memory and time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file

from hf_td import compact_model, prune_model
from hf_td.hub import export_model, load_archived_model
from hf_td.hub.archive import load_archive, read_description, save_archive
from hf_td.tensor_files import HEADER_LIMIT
from tests.compaction.models import uneven_model
from tests.hub.archive.forging import forge, parts_of
from tests.tiny import tiny_model

ARCHIVE = "model.archive.safetensors"
LIMIT = 1_000_000


def archived(folder: Path, family: str = "llama") -> Path:
    return export_model(tiny_model(family), folder, form="archive", check=False).folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return archived(tmp_path / "archive")


def change(folder: Path, **values: Any) -> None:
    """Change entries of the config; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({n: v for n, v in config.items() if v is not None}))


def add(folder: Path, **tensors: torch.Tensor) -> None:
    """Write the archive again with other tensors; a name stands for `_` with `.`."""
    known = load_archive(folder / ARCHIVE)
    save_archive({**known, **tensors}, folder / ARCHIVE)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary": ({"vocab_size": 12_000_000}, "embed_tokens.weight in the archive .* should be"),
    "width": ({"hidden_size": 1 << 20}, "should be like"),
    "too wide": ({"hidden_size": 1 << 62}, "describes no model that can be built"),
    "no width": ({"num_attention_heads": 0}, "describes no model that can be built: ZeroDivision"),
    "text as width": ({"hidden_size": "32"}, "describes no model that can be built"),
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers in .* should be at most 65536"),
    "few too many layers": ({"num_hidden_layers": 60_000}, "it has more than .* modules"),
    "a layer more": (
        {"num_hidden_layers": 3, "layer_types": None},
        "has no tensor 'model.layers.2",
    ),
    "a layer less": (
        {"num_hidden_layers": 1, "layer_types": None},
        "has a tensor too many, 'model.layers.1",
    ),
    "labels": ({"num_labels": 10**8}, "num_labels in .* should be at most 65536"),
    "nested labels": ({"a": [{"num_labels": 10**8}]}, "num_labels in .* should be at most"),
    "nan": ({"num_labels": float("nan")}, "num_labels in .* should be at most 65536, got nan"),
    "type": ({"model_type": "none_such"}, "describes no model that can be built"),
    "other type": ({"model_type": "bert"}, "names LlamaForCausalLM, which has no config of bert"),
    "class": ({"architectures": ["BertModel"]}, "names BertModel, which has no config of llama"),
    "no class": ({"architectures": [3]}, "names 3, which is no model class"),
    "function": ({"architectures": ["pipeline"]}, "names 'pipeline', which is no model class"),
    "no list": ({"architectures": {"a": 1}}, "which is no model class"),
    "dtype": ({"dtype": "float64"}, "dtype in .* should be one of"),
    "no dtype": ({"dtype": "load_library"}, "describes no model|dtype in"),
    "a mapping as dtype": ({"dtype": {"a": 1}}, "dtype in .* should be one of .*got {'a': 1}"),
    "quantised": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "archives have none"),
    "layout": ({"quantization_config": {"quant_method": "hf_td"}}, "malformed compact layout"),
    "kernel": ({"attn_implementation": "a/b"}, "should name no code on the Hub"),
    "backbone": ({"use_pretrained_backbone": True}, "should be false"),
    "remote": (
        {"auto_map": {"AutoConfig": "x.Y"}, "model_type": "none_such"},
        "describes no model that can be built",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_does_not_fit_the_archive_is_refused(case, folder):
    values, said = REFUSED[case]
    change(folder, **values)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=said):
        load_archived_model(folder, limit=LIMIT)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "[" * 100_000, "\xff", '{"a": 1e999}'])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_file_that_is_no_config_is_refused(file, content, folder):
    (folder / file).write_text(content, encoding="latin-1")
    if (file, content) == ("generation_config.json", '{"a": 1e999}'):
        load_archived_model(folder)
        return
    with pytest.raises(ValueError, match=file):
        load_archived_model(folder)


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json in"):
        load_archived_model(folder)


def test_a_large_config_is_not_read(folder):
    (folder / "config.json").write_text(" " * ((16 << 20) + 1))
    with pytest.raises(ValueError, match=r"config\.json should have at most 16777216 bytes"):
        load_archived_model(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("extra", torch.ones(3), "has a tensor too many, 'extra'"),
        ("lm_head.weight", torch.ones(3), r"should be like torch.float32 of shape \(64, 32\)"),
        ("lm_head.weight", torch.ones(64, 32).long(), "got torch.int64 of shape"),
        ("lm_head.weight", torch.ones(64, 32, dtype=torch.complex64), "got torch.complex64"),
    ],
)
def test_other_tensors_are_refused(name, tensor, said, folder):
    add(folder, **{name: tensor})
    with pytest.raises(ValueError, match=said):
        load_archived_model(folder)


def test_a_missing_tensor_is_refused(folder):
    tensors = load_archive(folder / ARCHIVE)
    del tensors["lm_head.weight"]
    save_archive(tensors, folder / ARCHIVE)
    with pytest.raises(ValueError, match=r"has no tensor 'lm_head\.weight'"):
        load_archived_model(folder)


def test_tables_that_are_not_saved_count_too(tmp_path):
    folder = archived(tmp_path / "archive", "bert")
    change(folder, max_position_embeddings=512)
    load_archived_model(folder)
    model: Any = tiny_model("bert")
    change(folder, max_position_embeddings=1 << 40)
    with pytest.raises(ValueError, match=r"should be like|at most limit"):
        load_archived_model(folder, limit=sum(t.nbytes for t in model.state_dict().values()))


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5", "vit"])
def test_what_fits_is_loaded_at_its_own_limit(family, tmp_path):
    model = tiny_model(family)
    size = read_description(archived(tmp_path / "x", family) / ARCHIVE).dense_bytes
    again = load_archived_model(tmp_path / "x", limit=size)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
    with pytest.raises(ValueError, match="at most limit="):
        load_archived_model(tmp_path / "x", limit=size - 1)


def test_a_compact_model_is_loaded_from_an_archive(tmp_path):
    model = uneven_model("bert")
    prune_model(model, 0.5, level="unit")
    compact_model(model)
    folder = export_model(model, tmp_path / "x", form="archive", check=False).folder
    again = load_archived_model(folder)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_header_is_bounded_before_it_is_parsed(tmp_path):
    path = tmp_path / ARCHIVE
    text = "[" + "[]," * 11_000_000 + "[]]"
    forge(path, {}, text)
    assert path.stat().st_size > HEADER_LIMIT
    for read in (read_description, load_archive):
        with pytest.raises(ValueError, match=f"header of at most {HEADER_LIMIT} bytes, got 33"):
            read(path)
    save_file({}, path)
    with pytest.raises(ValueError, match="format should be"):
        read_description(path)


def test_a_long_list_of_streams_is_not_printed(folder):
    streams, description = parts_of(folder / ARCHIVE)
    streams["x/plane0"] = b"1"
    forge(folder / ARCHIVE, streams, description)
    with pytest.raises(ValueError, match="the names of the streams") as raised:
        load_archive(folder / ARCHIVE)
    assert len(str(raised.value)) < 1000


# Random changes of the config.

VALUES: list[Any] = [
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, -0.5, 1e308, float("inf"), float("nan"),
    "", "x", "a/b", "../../etc/passwd", [], [1], [[]], {}, {"a": 1}, ["float32"], "bfloat16",
]  # fmt: skip


def mutated(config: dict[str, Any], draws: random.Random) -> dict[str, Any]:
    config = json.loads(json.dumps(config))
    for _ in range(draws.choice([1, 1, 2, 4])):
        name = draws.choice(list(config))
        if draws.random() < 0.2:
            del config[name]
        else:
            config[name] = draws.choice([*VALUES, config[draws.choice(list(config))]])
    return config


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "vit"])
def test_random_configs_raise_documented_errors_or_load_the_same_weights(family, tmp_path):
    folder = archived(tmp_path / "archive", family)
    path = folder / "config.json"
    stock, weights = json.loads(path.read_text()), load_archive(folder / ARCHIVE)
    draws = random.Random(family)
    outcomes = {"refused": 0, "loaded": 0}
    for _ in range(40):
        path.write_text(json.dumps(mutated(stock, draws)))
        begun = time.monotonic()
        try:
            model = load_archived_model(folder, limit=LIMIT)
        except ValueError:
            outcomes["refused"] += 1
        else:
            outcomes["loaded"] += 1
            found = model.state_dict()
            assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
        assert time.monotonic() - begun < 20, path.read_text()
    assert min(outcomes.values()) > 0


def test_the_memory_of_a_refusal_is_bounded(folder):
    change(folder, vocab_size=12_000_000, max_position_embeddings=1 << 40)
    code = """
        import resource, sys
        from hf_td.hub import load_archived_model
        from transformers import LlamaForCausalLM
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            load_archived_model(sys.argv[1], limit=1_000_000)
        except ValueError as error:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    unit = 1024 if sys.platform == "linux" else 1
    assert int(done.stdout) * unit < 200_000_000
