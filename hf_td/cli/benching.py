"""Compares the latency and the bytes of two models: `hf-td bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from hf_td.cli.answers import Answer
from hf_td.cli.loading import load_model
from hf_td.files import folder_bytes
from hf_td.hub import Latency, measure_latency
from hf_td.tasks.errors import blaming_input
from hf_td.wishes.inputs import sized_inputs, threads_of_torch


def compare_latency(
    dense: str,
    compact: str,
    *,
    batches: Sequence[int],
    length: int,
    threads: int | None,
    rounds: int,
    trust_remote_code: bool,
) -> Answer:
    """Return the milliseconds of forwards of two models at each batch, and the sizes of both.

    Args:
        dense: folder or Hub id of the model to compare with.
        compact: folder or Hub id of the smaller model.
        batches: numbers of rows.
        length: number of tokens of each row.
        threads: of torch; None leaves their number.
        rounds: timed forwards of each model, at least 2.
        trust_remote_code: run the code in the models' repositories.

    Raises:
        UsageError: a model cannot be loaded, or does not run on such inputs.
    """
    names = {"dense": dense, "compact": compact}
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    models = {
        role: load_model(name, trust_remote_code=trust_remote_code)[0].to(device)
        for role, name in names.items()
    }
    sizes = {role: _size(names[role], models[role]) for role in names}
    with blaming_input(), threads_of_torch(threads):
        found = [
            measure_latency(**models, inputs=sized_inputs(models["dense"], n, length), runs=rounds)
            for n in batches
        ]
    first = found[0]
    shown = [
        _table(batches, found),
        f"milliseconds of a forward: median (quartiles) of {rounds}; length {length}, "
        f"{first.threads} threads, {first.dtype}, {first.hardware}",
        *(f"{role}: {_sizes(size)} ({names[role]})" for role, size in sizes.items()),
    ]
    timed = [asdict(one) | {"speedup": one.speedup} for one in found]
    return Answer(shown=tuple(shown), values={"sizes": sizes, "latency": timed})


def _size(name: str, model: Any) -> dict[str, int | None]:
    """Return the number of parameters, and the bytes of all files of a local folder."""
    local = folder_bytes(name) if Path(name).is_dir() else None
    return {"parameters": model.num_parameters(), "bytes": local}


def _sizes(size: dict[str, int | None]) -> str:
    files = "" if size["bytes"] is None else f", {size['bytes'] / 1e6:.1f} MB on disk"
    return f"{size['parameters']:,} parameters{files}"


def _table(batches: Sequence[int], found: Sequence[Latency]) -> Table:
    table = Table("batch", "dense ms", "compact ms", "times as fast")
    for batch, latency in zip(batches, found, strict=True):
        table.add_row(
            str(batch), str(latency.dense), str(latency.compact), f"{latency.speedup:.2f}"
        )
    return table
