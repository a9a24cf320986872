"""A power cut leaves the old content or the new: every writer flushes before it renames, and after.

No disk is cut off here. The order of the calls is recorded, see `tests.disk`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_td
from hf_td import export_model, files, prune_folder, prune_model
from hf_td.analysis.plots import plot_curves
from hf_td.files import append_json_line, whole_folder, write_json, write_text
from hf_td.hub.archive import save_archive
from hf_td.ranking.activations import Activations
from hf_td.ranking.learned import LEARNED
from hf_td.tasks.experiment.trainers import save_fine_tuned
from hf_td.training import TargetedDropoutTrainer, save_gathered
from hf_td.training.checkpoints import mark
from tests.disk import recorded
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.models import arguments, examples


def pruned() -> Any:
    model = tiny_model("llama")
    prune_model(model, 0.5, level="unit")
    return model


def export(form: str) -> Callable[[Path], Any]:
    return lambda folder: export_model(
        pruned(),
        folder / "export",
        form=form,
        check=False,
        overwrite=True,
        metrics={"accuracy": 1.0},
        processing_class=tiny_tokenizer(),
    )


def from_disk(folder: Path) -> None:
    source = folder / "dense"
    if not source.exists():
        tiny_model("llama").save_pretrained(source)
    prune_folder(source, folder / "export", 0.5, level="unit", overwrite=True, shard_bytes=20_000)


def folder_with_folders(folder: Path) -> None:
    with whole_folder(folder / "a" / "b" / "export", overwrite=True) as draft:
        (draft / "additional_chat_templates").mkdir()
        (draft / "additional_chat_templates" / "one.jinja").write_text("1")
        (draft / "config.json").write_text("{}")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write_text(folder / "page.md", "new"),
    "json": lambda folder: write_json(folder / "a" / "b" / "results.json", {"x": 1}),
    "line": lambda folder: append_json_line(folder / "a" / "b" / "runs.jsonl", {"x": 1}),
    "folder": folder_with_folders,
    "stock": export("stock"),
    "compact": export("compact"),
    "padded": export("padded"),
    "archive": export("archive"),
    "from_disk": from_disk,
    "gathered": lambda folder: save_gathered(tiny_model("llama"), folder / "whole", overwrite=True),
    "tensors": lambda folder: save_archive({"x": torch.ones(9)}, folder / "x.archive.safetensors"),
    "activations": lambda folder: Activations({"x": torch.ones(9)}).save(folder),
    "scores": lambda folder: LEARNED.save(folder, {"x": torch.ones(9)}),
    "plot": lambda folder: plot_curves({"a": [{0.0: 1.0}]}, folder / "x", metric="y", title="t"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_written_is_on_the_disk_before_and_after_it_gets_its_name(
    writer, tmp_path, monkeypatch
):
    for _ in range(2):  # anew, and over what is there
        with recorded(monkeypatch) as disk:
            WRITERS[writer](tmp_path)
        assert disk.renamed or writer == "line"


def test_a_marked_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / "below").mkdir(parents=True)
    (checkpoint / "below" / "weights").write_text("1")
    with recorded(monkeypatch) as disk:
        mark(checkpoint)
        disk.rename(checkpoint, tmp_path / "as-if-renamed")
        disk.unflushed.clear()


def test_a_fine_tuned_model_is_on_the_disk_before_its_checkpoints_are_removed(
    tmp_path, monkeypatch
):
    args = arguments(tmp_path / "run")
    trainer = TargetedDropoutTrainer(
        tiny_model("bert"), args, processing_class=tiny_tokenizer(), train_dataset=examples("bert")
    )
    with recorded(monkeypatch) as disk:
        save_fine_tuned(trainer, tmp_path / "seed-0")
        disk.rename(tmp_path / "seed-0", tmp_path / "as-if-renamed")
        disk.unflushed.clear()


def test_the_names_of_new_folders_and_files_are_flushed(tmp_path, monkeypatch):
    flushed: list[Path] = []
    flush = files.flush
    monkeypatch.setattr(files, "flush", lambda path: (flushed.append(path), flush(path)))
    append_json_line(tmp_path / "a" / "b" / "runs.jsonl", 1)
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    append_json_line(tmp_path / "a" / "b" / "runs.jsonl", 2)
    assert len(flushed) == 3


def careless(folder: Path, kind: str) -> None:
    draft = folder / "draft"
    draft.mkdir()
    (draft / "config.json").write_text("{}")
    if kind != "content":
        files.flush_tree(draft)
    draft.rename(folder / "export")


@pytest.mark.parametrize(
    ("kind", "lost"), [("content", "is not on the disk"), ("name", "loses names in")]
)
def test_the_record_finds_a_careless_writer(kind, lost, tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match=lost), recorded(monkeypatch):
        careless(tmp_path, kind)


# Calls that write a file, by the last part of their names.
WRITING = {
    "write_text",
    "write_bytes",
    "save_file",
    "savefig",
    "dump",
    "copyfile",
    "copytree",
    "save_pretrained",
    "mkdtemp",
}
# Functions that write into a draft which hf_td.files flushes, or into a scratch folder.
INTO_DRAFTS = {
    "files.py": "is the helper",
    "drafts.py": "the lock of a draft",
    "hub/forms/": "write into the draft of export_model",
    "hub/export.py": "writes into the draft of export_model",
    "hub/from_disk/": "write into the draft of prune_folder",
    "hub/archive/writing.py": "inside replacing",
    "hub/verify.py": "a scratch folder",
    "hub/reload.py": "a scratch folder",
    "analysis/plots.py": "inside replacing",
    "ranking/saved.py": "inside replacing",
    "hub/sentences.py": "writes into the draft of export_model",
    "report/svg.py": "into memory",
    "training/averaging.py": "inside replacing",
    "training/distillation/maps.py": "in a checkpoint, flushed before it is marked",
    "training/gathered.py": "inside whole_folder",
    "training/epoch_order.py": "in a checkpoint, flushed before it is marked",
    "tasks/experiment/trainers.py": "flushed at its end",
    "vocabulary/tokenizer.py": "a scratch folder",
    "modules/saving.py": "the user's own save",
}


def test_no_other_place_of_the_package_writes_files():
    package = Path(hf_td.__file__).parent
    found: set[str] = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _writes(call):
                found.add(next((place for place in INTO_DRAFTS if name.startswith(place)), name))
    assert found <= INTO_DRAFTS.keys(), "writes without hf_td.files"
    assert found == INTO_DRAFTS.keys(), "an exception that is no longer needed"


def _writes(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if name == "open":
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        return any(isinstance(m, str) and set(m) & set("wax+") and len(m) < 4 for m in modes)
    if name in ("write_text", "write_bytes"):  # by a path, not by hf_td.files
        return isinstance(function, ast.Attribute)
    return name in WRITING and (name != "dump" or owner in ("json", "yaml"))
