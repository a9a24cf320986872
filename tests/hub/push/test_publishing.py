"""Publishing to a Hub on this machine, by the real client."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
from huggingface_hub import constants

from hf_td.hub import export_model, push_to_hub
from tests.hub.push.published import ON_A_LOOPBACK_HUB, REPO, content_of

pytestmark = ON_A_LOOPBACK_HUB


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
        (lambda f: (f / "model.safetensors").unlink(), "has none of .*model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-1]
            ),
            "is not a whole safetensors file",
        ),
        (shutil.rmtree, "is no folder"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json should be a mapping"),
        (lambda f: (f / "config.json").write_text("3"), "config.json should be a mapping"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json cannot be read"),
        (lambda f: (f / "notes.md").symlink_to("/etc/hostname"), "is a link to /etc/hostname"),
        (lambda f: (f / "up").symlink_to(f.parent), "is a link to .*outside of the folder"),
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


def test_a_link_inside_of_the_folder_is_published(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "notes.md").symlink_to("README.md")
    push_to_hub(copy, REPO)
    assert hub.files(REPO)["notes.md"] == (copy / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "should be JSON"),
        ("[" * 100_000, "should be JSON"),
        ("[]", "should be a mapping"),
        ("{}", "should have a weight_map"),
        ('{"weight_map": 3}', "should have a weight_map"),
        ('{"weight_map": {"a": 3}}', "should have a weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "in its own folder, got '../x"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "in its own folder, got '/etc/passwd'"),
        ('{"weight_map": {"a": ".."}}', "in its own folder|is missing"),
    ],
)
def test_a_malformed_index_is_refused(hub, folder, tmp_path, content, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(content)
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


def test_the_draft_of_an_export_is_refused(hub, folder, tmp_path):
    draft = tmp_path / ".model.0123456789abcdef.hf_td" / "new"
    shutil.copytree(folder, draft)
    with pytest.raises(ValueError, match="temporary folder of an export that did not finish"):
        push_to_hub(draft, REPO)
    assert not hub.requests


def test_a_pull_request_from_a_branch_is_an_error_at_once(hub, folder):
    with pytest.raises(ValueError, match="a pull request is made for main"):
        push_to_hub(folder, REPO, revision="half", create_pr=True)
    assert not hub.requests


def test_a_wrong_name_is_an_error_at_once(hub, folder):
    with pytest.raises(ValueError, match="Repo id must"):
        push_to_hub(folder, "a/b/c")
    assert not hub.requests


@pytest.mark.skipif(not importlib.util.find_spec("hf_xet"), reason="needs hf_xet")
def test_a_push_by_xet_is_one_commit_too(hub, folder, monkeypatch):
    """With hf_xet, `upload_folder` of huggingface_hub may split a push into several commits."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("tests.hub.loopback.is_large", lambda path: False)
    push_to_hub(folder, REPO)
    assert len(hub.repositories[REPO].commits) == 2
