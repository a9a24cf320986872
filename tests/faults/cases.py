"""What is interrupted: one row for each kind of work that writes files.

A state is what a reader finds. Work that is done again after a fault has to bring about the state
that it brings about without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lab.sweeps import Ledger, run_sweep
from safetensors.torch import save_file

from hf_td import export_model, prune_folder, prune_model
from hf_td.files import append_json_line, read_json_lines, write_json
from hf_td.hub.archive import save_archive
from hf_td.ranking.activations import Activations
from hf_td.training import save_gathered
from hf_td.training.checkpoints import checkpoints_in, is_torn
from tests.lab.sweeps.grids import FakeWorkers, cells_of
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.models import arguments, trainer_of

State = Any


@dataclass(frozen=True)
class Case:
    """Work on a folder.

    Attributes:
        prepare: makes the old state of a new folder, and returns the work on it.
        state: returns what a reader finds in the folder.
        atomic: True if a reader finds only the old state or the new one.
        tidy: True if the work removes what killed work has left, but empty folders.
    """

    prepare: Callable[[Path], Callable[[], Any]]
    state: Callable[[Path], State]
    atomic: bool = True
    tidy: bool = False


def content(folder: Path) -> State:
    """Return the names and the digests of the files in the export; None if there is none."""
    target = folder / "export"
    if not target.exists():
        return None
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return {str(p.relative_to(target)): blake2b(p.read_bytes()).hexdigest() for p in files}


def _export(form: str) -> Callable[[Path], Callable[[], Any]]:
    def prepare(folder: Path) -> Callable[[], Any]:
        def write(model: Any, **options: Any) -> None:
            target = folder / "export"
            export_model(model, target, form=form, check=False, overwrite=True, **options)

        write(tiny_model("llama"))
        model = tiny_model("llama", seed=1)
        prune_model(model, 0.5, level="unit")
        return lambda: write(model, metrics={"x": 1.0}, processing_class=tiny_tokenizer())

    return prepare


def _from_disk(folder: Path) -> Callable[[], Any]:
    source = folder / "source"
    tiny_model("llama").save_pretrained(source)

    def write(sparsity: float) -> None:
        target = folder / "export"
        prune_folder(source, target, sparsity, level="unit", overwrite=True, shard_bytes=20_000)

    write(0.25)
    return lambda: write(0.5)


def _gathered(folder: Path) -> Callable[[], Any]:
    save_gathered(tiny_model("llama"), folder / "export")
    model = tiny_model("llama", seed=1)
    return lambda: save_gathered(model, folder / "export", overwrite=True)


def _files(write: Callable[[Path, float], Any]) -> Callable[[Path], Callable[[], Any]]:
    def prepare(folder: Path) -> Callable[[], Any]:
        (folder / "export").mkdir()
        write(folder / "export", 1.0)
        return lambda: write(folder / "export", 2.0)

    return prepare


def _visible(folder: Path) -> State:
    """Return the content without drafts of single files, which a kill leaves."""
    return {n: d for n, d in content(folder).items() if not n.endswith(".tmp")}


def _train(folder: Path) -> Callable[[], Any]:
    run = folder / "run"

    def train() -> None:
        args = arguments(run, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=4)
        trainer = trainer_of(tiny_model("bert"), args)
        whole = not all(map(is_torn, checkpoints_in(run)))
        trainer.train(resume_from_checkpoint=whole)
        if trainer.is_world_process_zero():
            save_file(trainer.model.state_dict(), folder / "draft")
            (folder / "draft").replace(folder / "weights")

    return train


def _trained(folder: Path) -> State:
    weights = folder / "weights"
    return blake2b(weights.read_bytes()).hexdigest() if weights.exists() else None


def _sweep(folder: Path) -> Callable[[], Any]:
    cells = cells_of(folder)
    return lambda: run_sweep(cells, Ledger(folder / "out"), FakeWorkers())


def _swept(folder: Path) -> State:
    """Return the cells that ended, each with the lines that were written for it."""
    if not (folder / "out").exists():
        return None
    return Ledger(folder / "out").ended()


def _append(folder: Path) -> Callable[[], Any]:
    path = folder / "runs.jsonl"
    append_json_line(path, 0)
    return lambda: append_json_line(path, 1)


def _lines(folder: Path) -> State:
    return set(read_json_lines(folder / "runs.jsonl"))


CASES: dict[str, Case] = {
    **{
        form: Case(_export(form), content, tidy=True)
        for form in ("stock", "compact", "padded", "archive")
    },
    "from disk": Case(_from_disk, content, tidy=True),
    "gathered": Case(_gathered, content, tidy=True),
    "results": Case(_files(lambda f, x: write_json(f / "results.json", x)), _visible),
    "tensors": Case(
        _files(lambda f, x: save_archive({"x": torch.ones(9) * x}, f / "x.archive.safetensors")),
        _visible,
    ),
    "activations": Case(
        _files(lambda f, x: Activations({"x": torch.ones(9) * x}).save(f)), _visible
    ),
    "lines": Case(_append, _lines),
    "training": Case(_train, _trained),
    "sweep": Case(_sweep, _swept, atomic=False),
}
# Takes seconds each time, so it is interrupted less often.
SLOW_CASES: dict[str, Case] = {"onnx": Case(_export("onnx"), content, tidy=True)}
