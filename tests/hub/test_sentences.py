"""The modules of a SentenceTransformer are copied beside an encoder, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_td import export_model
from hf_td.files import check_free
from hf_td.hub.sentences import copy_modules, find_modules, loader_in
from tests.tiny import tiny_model

POOLING = "sentence_transformers.models.Pooling"


def listed(folder: Path, path: str = "1_Pooling", kind: str = POOLING) -> Path:
    """Write what sentence-transformers writes beside an encoder."""
    encoder = {"path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "modules.json").write_text(json.dumps([encoder, {"path": path, "type": kind}]))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    (folder / "model.safetensors").write_bytes(b"of the encoder")
    return folder


def test_modules_and_their_settings_are_copied_and_weights_are_not(tmp_path):
    source, out = listed(tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    copy_modules(source, out)
    copied = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert copied == {"1_Pooling/config.json", "modules.json", "sentence_bert_config.json"}
    check_free(out, overwrite=True)
    (out / "2_mine").mkdir()
    with pytest.raises(FileExistsError, match="holds folders, such as 2_mine"):
        check_free(out, overwrite=True)


def test_an_export_has_the_modules_of_the_folder_and_says_so(tmp_path):
    source, out = listed(tmp_path / "whole"), tmp_path / "out"
    export_model(tiny_model("bert"), out, modules_from=source, check=False)
    assert (out / "1_Pooling/config.json").is_file()
    assert "model = SentenceTransformer(model_id)\n" in (out / "README.md").read_text()
    assert find_modules(str(out)) == out


def test_a_folder_without_modules_is_refused(tmp_path):
    assert find_modules(str(tmp_path)) is None
    with pytest.raises(ValueError, match=r"has no modules\.json, .* or leave modules_from out"):
        export_model(tiny_model("bert"), tmp_path / "out", modules_from=tmp_path, check=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["../1_Pooling", "..", "a\\b", "/etc"])
def test_modules_outside_of_the_folder_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="should name folders in"):
        copy_modules(listed(tmp_path / "whole", path=path), tmp_path)


def test_a_damaged_list_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text('["1_Pooling"]')
    with pytest.raises(ValueError, match="should list modules with a path each"):
        copy_modules(tmp_path, tmp_path)


def test_modules_with_code_of_their_own_are_refused(tmp_path):
    source = listed(tmp_path / "whole", kind="mine.Pooling")
    with pytest.raises(ValueError, match=r"the module mine\.Pooling, whose code .* whole model"):
        copy_modules(source, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "3", "[" * 100_000])
def test_damaged_settings_are_named(content, tmp_path):
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config_sentence_transformers\.json should be"):
        loader_in(tmp_path)
    for value in ("x", 3, ["SparseEncoder"], None):
        path.write_text(json.dumps({"model_type": value}))
        assert loader_in(tmp_path) == "SentenceTransformer"
    path.write_text(json.dumps({"model_type": "SparseEncoder"}))
    assert loader_in(tmp_path) == "SparseEncoder"
