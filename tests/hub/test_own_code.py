"""Repositories with code of their own: nothing outside of them is run or read, and why is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import dynamic_module_utils

from hf_td import compact_model, prune_folder
from hf_td.cli.checking import check_export
from hf_td.cli.loading import load_model, load_processor
from hf_td.hub import load_archived_model
from hf_td.hub.own_code import check_own_code
from hf_td.modules.compact_file import FILE
from hf_td.modules.stock_models import stock_class
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.models import find_model
from hf_td.training.distillation.teacher import load_teacher
from tests.compaction.models import uneven_model
from tests.tiny import tiny_model, tiny_tokenizer

CODE = """
from pathlib import Path
from transformers import BertConfig
Path({mark!r}).write_text("run")
class Own(BertConfig):
    model_type = "own"
"""
NAMING = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
OUTSIDE = [
    "other/repo--evil.Own", "--evil.Own", "../evil.Own", "..evil.Own", "/tmp/evil.Own",
    "a/evil.Own", "a.evil.Own", "evil", "evil.", ".Own", "", 3, True, "evil.Own\n", "..\\evil.Own",
]  # fmt: skip


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """Return the file that is written when the code of a repository is run."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "mark"


@pytest.fixture
def folder(tmp_path, mark) -> Path:
    """Return the folder of a stock model, with code that nothing names yet."""
    folder = tmp_path / "repository"
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for place in (folder, tmp_path):
        (place / "evil.py").write_text(CODE.format(mark=str(mark)))
    return folder


def change(folder: Path, file: str = "config.json", **values: Any) -> None:
    path = folder / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **values}))


def find(folder: Path, *, trust: bool = True) -> Any:
    return find_model(ModelArguments(model_name_or_path=str(folder), trust_remote_code=trust))


@pytest.mark.parametrize("file", NAMING)
@pytest.mark.parametrize("reference", OUTSIDE)
def test_code_elsewhere_is_refused(file, reference, folder, mark):
    change(folder, file, auto_map={"AutoConfig": reference, "AutoTokenizer": [None, reference]})
    with pytest.raises(
        UsageError, match=r"auto_map in .* names the code .* Only code of .* itself"
    ):
        find(folder)
    find(folder, trust=False)
    assert not mark.exists()


def test_code_elsewhere_is_found_in_lists_and_mappings(folder):
    for value in ([None, "other/x--a.B"], {"pil": "other/x--a.B"}, {"a": [["other/x--a.B"]]}):
        change(folder, "preprocessor_config.json", auto_map=value)
        with pytest.raises(ValueError, match=r"names the code 'other/x--a.B'"):
            check_own_code(str(folder))


def test_a_link_to_code_outside_is_refused(folder, tmp_path, mark):
    change(folder, auto_map={"AutoConfig": "evil.Own"}, model_type="own")
    (folder / "evil.py").unlink()
    (folder / "evil.py").symlink_to(tmp_path / "evil.py")
    with pytest.raises(UsageError, match=r"evil\.py is a link to .*, outside of the folder"):
        load_model(str(folder), trust_remote_code=True)
    assert not mark.exists()


def test_a_link_in_the_cache_of_the_hub_is_fine(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    (snapshot / "evil.py").rename(blobs / "abc")
    (snapshot / "evil.py").symlink_to("../../blobs/abc")
    change(snapshot, auto_map={"AutoConfig": "evil.Own"})
    check_own_code(str(snapshot))


def test_own_code_runs_if_it_is_trusted_and_only_then(folder, mark):
    change(folder, auto_map={"AutoConfig": "evil.Own"}, model_type="own")
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        prune_folder(folder, folder.with_name("pruned"), 0.5)
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        load_teacher(str(folder), tiny_model("bert"))
    with pytest.raises(UsageError, match="contains custom code which must be executed"):
        load_model(str(folder), trust_remote_code=False)
    assert not mark.exists()
    assert load_model(str(folder), trust_remote_code=True)[0].config.model_type == "own"
    assert mark.exists()


def test_code_of_a_known_type_is_not_run(folder, mark):
    names = {"AutoConfig": "evil.Own", "AutoModelForSequenceClassification": "evil.Own"}
    for file in NAMING:
        change(folder, file, auto_map={**names, "AutoTokenizer": [None, "evil.Own"]})
    model, source = load_model(str(folder), trust_remote_code=False)
    assert type(model) is type(tiny_model("bert"))
    assert load_processor(source) is not None
    change(folder, dtype="float32")
    prune_folder(folder, folder.with_name("pruned"), 0.5, level="unit")
    assert not mark.exists()


def test_an_archive_runs_no_code(tmp_path, mark):
    from hf_td import export_model

    folder = export_model(tiny_model("bert"), tmp_path / "x", form="archive", check=False).folder
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    change(folder, auto_map={"AutoConfig": "evil.Own", "AutoModel": "other/repo--evil.Own"})
    load_archived_model(folder)
    change(folder, model_type="own")
    with pytest.raises(ValueError, match="describes no model that can be built"):
        load_archived_model(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../out.safetensors", "/out.safetensors", "a/out.safetensors"])
def test_weights_outside_are_not_read(name, folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "out.safetensors")
    change(folder, "model.safetensors.index.json", weight_map={"a": name}, metadata={})
    for load in (find, lambda f: prune_folder(f, tmp_path / "pruned", 0.5)):
        with pytest.raises((UsageError, ValueError), match="should name files in its own folder"):
            load(folder)


@pytest.mark.parametrize("name", ["pipeline", "Trainer", "AutoModel", "set_seed", "os", 3, None])
def test_only_classes_of_models_are_called(name, folder, tmp_path):
    change(folder, architectures=[name])
    with pytest.raises((UsageError, ValueError), match="names no"):
        prune_folder(folder, tmp_path / "pruned", 0.5)
    assert stock_class([name]) is None


def test_the_names_of_classes_are_a_list():
    assert stock_class("BertModel") is stock_class(None) is stock_class({"BertModel": 1}) is None
    found = stock_class(["pipeline", "BertModel"])
    assert found is not None
    assert found.__name__ == "BertModel"


@pytest.fixture
def compact(tmp_path) -> Path:
    folder = tmp_path / "compact"
    compact_model(uneven_model("bert")).save_pretrained(folder)
    return folder


def checked(folder: Path) -> str:
    answer = check_export(folder, against=None, example_inputs=None, trust_remote_code=False)
    assert not answer.met
    return answer.values["reason"]


def test_a_check_does_not_run_a_changed_modeling_file(compact, mark):
    with (compact / FILE).open("a") as file:
        file.write(CODE.format(mark=str(mark)))
    assert f"{FILE} is not the file that this version of hf_td writes" in checked(compact)
    assert not mark.exists()


def test_a_check_does_not_run_code_beside_the_modeling_file(compact, mark):
    (compact / "evil.py").write_text(CODE.format(mark=str(mark)))
    for names in ({"AutoModel": "evil.Own"}, {"AutoConfig": "other/repo--evil.Own"}):
        change(compact, auto_map=names)
        assert "auto_map in" in checked(compact)
    assert not mark.exists()
