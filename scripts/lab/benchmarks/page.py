"""The page of all that was measured about speed: tables, plots, and what missed its aim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_td.analysis.plots import plot_lines
from hf_td.analysis.timing import Quartiles
from hf_td.files import write_text
from lab.benchmarks.pruning import on_cores, pruning_section
from lab.benchmarks.training.cases import METHOD_VARIANTS

Record = Mapping[str, Any]
# The name of a column, and its cell.
Column = tuple[str, Callable[[Record], str]]

# The largest ratio to the dense step that is aimed at, by batch, length and device.
AIMS = {
    (32, 128, "cpu"): 1.04,
    (16, 64, "cpu"): 1.15,
    (32, 128, "cuda"): 1.02,
    (8, 1024, "cuda"): 1.01,
}
# What is measured to be compared with; no aim is for it.
_OTHER_WAYS = ("naive port", "parametrize")

_INTRODUCTION = """# How fast it is

Made by `python scripts/performance.py` from training_speed.jsonl and pruning_speed.jsonl, where
every line says by what command, on what hardware, with what versions and at what commit it was
measured. Shown are medians, and quartiles in brackets, of repetitions in which the compared things
took turns in one process. Models have random weights, on which times do not depend. In lines with
`keeps_freed_memory` malloc was told to: by default the same step takes longer or not, by luck.

"""
_STEPS = """## Training steps

Whole optimiser steps: masks, forwards, backwards, AdamW (fused, as the Trainer has it). The ratio
is to the dense model's step beside it. *Weight* and *unit* are the levels with their recipes at the
final targeting; candidates are ranked exactly and anew at every update. The naive port sorts every
matrix in every forward, as the authors' code does. *Of all steps* is the sum of a variant's steps
over that of the dense ones; it counts what only some updates do.
"""
_METHODS = """## Other methods

What a step of the methods that targeted dropout is compared with takes, at both levels, with their
default settings; measured in turn with the same dense model as each other.
"""
_PARTS = """## Parts, and their floors

The weights of six layers, cold. The floor is what the part must read and write over the bandwidth
of a copy that was measured beside it. On CUDA the time to hand out the work is in it.
"""
_DRIFT = """## Why candidates are ranked at every update

Fine-tuning of the built-in MiniLM on the built-in task with the weight level's recipe, while the
targeting is final. If each cut-off were kept for some updates, this share of the targeted weights
would be candidates wrongly, or wrongly none: on the mean of all updates, and at the worst of those
that keep them. What it could save at most is the time of *masks* above.
"""
_MEMORY = """## Memory

Peak of a few steps at 32 x 128, each in a process of its own; on the CPU with all that Python and
its libraries take. There two processes that do the same differ too, as the dense ones show. The
mask is one byte; in float32 the masked weights, 4 bytes, are kept until the backward.
"""
_PRUNING = """## What else a user waits for

Measured by `scripts/bench_pruning.py`. The first patch of a model reads its structure: it runs
three of its layers and follows gradients through them, which is most of the time; a second model of
the same class and shape is known. What an export is compared with, `save_pretrained`, takes as
long as the disk: the slower it is the lower the ratio, since pruning and compacting read and write
the weights in memory. Where it took 5.8 seconds the ratios were 1.29 and .98.
"""
_REASONS = """
Ranking takes as long for few tokens as for many, and so do the product of mask and weight in the
forward and that of mask and gradient in the backward: they weigh the more the fewer tokens a step
has. With bf16 the matrix products shrink and these do not. An interval between rankings could save
no more than the line *masks* below, and there is none. Where the quartiles of a line reach below 1
the machine was noisy, and its median is no better than they are wide.
"""
_NO_GPU = """
Of steps on a GPU there is no line. On an H100 they were measured once, and the measurement found
that masked weights of past updates stayed in memory until Python's garbage collector came; that is
mended, and has a test, and was not measured again. Nor was the kernel that ranks, since it looks
for a cut-off where it was at the update before, in fewer rounds, and draws once for eight weights:
the parts below are of before.
"""


def write_page(folder: Path, training: Sequence[Record], pruning: Sequence[Record]) -> Path:
    """Write performance.md and its plots.

    Args:
        folder: where to.
        training: the lines of training_speed.jsonl; of repeated measurements the last counts.
        pruning: the lines of pruning_speed.jsonl.

    Returns:
        The path of the page.
    """
    by_kind: dict[str, list[Record]] = {}
    for record in training:
        by_kind.setdefault(record["case"], []).append(record)
    measured = _latest(by_kind.get("step", []), _STEP_IDENTITY)
    methods = [record for record in measured if record["variant"] in METHOD_VARIANTS]
    steps = [record for record in measured if record["variant"] not in METHOD_VARIANTS]
    sections = [
        (_STEPS, _table(steps, _STEP_COLUMNS) + _said(steps) + _plots(steps, folder)),
        (_METHODS, _table(methods, _STEP_COLUMNS)),
        (_PARTS, _table(_latest(by_kind.get("kernel", []), _PART_IDENTITY), _PART_COLUMNS)),
        (_DRIFT, _table(_latest(by_kind.get("drift", []), ("interval",)), _DRIFT_COLUMNS)),
        (_MEMORY, _table(_latest(by_kind.get("memory", []), _STEP_IDENTITY), _MEMORY_COLUMNS)),
        (_PRUNING, pruning_section(pruning) + "\n" if pruning else ""),
        ("## Commands\n", _commands([*training, *pruning])),
    ]
    page = folder / "performance.md"
    text = _INTRODUCTION + "\n".join(f"{head}\n{body}" for head, body in sections if body)
    write_text(page, text)
    return page


def _latest(records: Iterable[Record], identity: Sequence[str]) -> list[Record]:
    """The last record of each kind on each processor, since processors differ in what is quick."""
    found = {(_processor(r), *(repr(r.get(n)) for n in identity)): r for r in records}
    return list(found.values())


def _processor(record: Record) -> str:
    return record["hardware"]["cpu"]


def _hardware(record: Record) -> str:
    return ", ".join([_processor(record), *record["hardware"]["gpus"]])


def _table(records: Sequence[Record], columns: Sequence[Column]) -> str:
    if not records:
        return ""
    rows = [[cell(record) for _, cell in columns] for record in records]
    lines = [[name for name, _ in columns], ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _spread(record: Record, name: str) -> str:
    return str(Quartiles(**record[name]))


def _size(record: Record) -> str:
    micro = record["micro_batches"]
    return f"{record['batch']} x {record['length']}" + (f", {micro} times" if micro > 1 else "")


def _shape(record: Record) -> str:
    shape = record["shape"]
    return f"{shape['name']} ({shape['layers']} layers, {shape['hidden']})"


def _where(record: Record) -> str:
    if record["device"] == "cpu":
        return on_cores(record)
    return ", ".join(record["hardware"]["gpus"])


_STEP_IDENTITY = (
    "variant",
    "shape",
    "batch",
    "length",
    "micro_batches",
    "precision",
    "mode",
    "device",
    "threads",
)
_PART_IDENTITY = ("kernel", "width", "device", "threads")
_STEP_COLUMNS: tuple[Column, ...] = (
    ("model", _shape),
    ("batch x length", _size),
    ("precision", lambda r: f"{r['precision']}, {r['mode']}"),
    ("on", _where),
    ("variant", lambda r: r["variant"]),
    ("dense step, ms", lambda r: f"{r['dense_milliseconds']['median']:.1f}"),
    ("ratio", lambda r: _spread(r, "ratio")),
    ("of all steps", lambda r: f"{r['ratio_of_sums']:.3f}" if "ratio_of_sums" in r else ""),
)
_PART_COLUMNS: tuple[Column, ...] = (
    ("part", lambda r: r["kernel"]),
    ("width", lambda r: str(r["width"])),
    ("weights", lambda r: f"{r['weights'] / 1e6:.1f} M"),
    ("on", _where),
    ("ms", lambda r: _spread(r, "milliseconds")),
    ("floor, ms", lambda r: f"{r['floor_milliseconds']:.2f}"),
)
_DRIFT_COLUMNS: tuple[Column, ...] = (
    ("updates from ranking to ranking", lambda r: str(r["interval"])),
    ("mean share", lambda r: f"{r['mean_share']:.2%}"),
    ("largest share", lambda r: f"{r['largest_share']:.2%}"),
    ("updates compared", lambda r: str(r["updates"])),
)
_MEMORY_COLUMNS: tuple[Column, ...] = (
    ("model", _shape),
    ("precision", lambda r: r["precision"]),
    ("on", _where),
    ("variant", lambda r: r["variant"]),
    ("MB", lambda r: f"{r['bytes'] / 1e6:.0f}"),
    ("MB, dense", lambda r: f"{r['dense_bytes'] / 1e6:.0f}"),
    ("bytes more per patched weight", lambda r: f"{r['extra_bytes_per_weight']:.1f}"),
)


def _aim(record: Record) -> float | None:
    plain = record["precision"] == ("float32" if record["device"] == "cpu" else "bf16")
    aimed = plain and record["variant"] not in _OTHER_WAYS and record["micro_batches"] == 1
    return AIMS.get((record["batch"], record["length"], record["device"])) if aimed else None


def _said(records: Sequence[Record]) -> str:
    """What the table does not say."""
    on_gpu = any(record["device"] == "cuda" for record in records)
    return _missed(records) + ("" if on_gpu or not records else _NO_GPU)


def _missed(records: Sequence[Record]) -> str:
    """A sentence on each case that is above its aim."""
    lines = [
        f"- {_shape(r)}, {_size(r)}, {r['variant']}, {r['mode']}: {r['ratio']['median']:.3f}, "
        f"where at most {aim} was the aim ({_where(r)}).\n"
        for r in records
        if (aim := _aim(r)) is not None and r["ratio"]["median"] > aim
    ]
    return "\nAbove their aims:\n\n" + "".join(lines) + _REASONS if lines else ""


def _plots(records: Sequence[Record], folder: Path) -> str:
    """Overhead against the tokens of a step, and against the width; images for the page.

    Each of the machine of which there are most lines: what others add is in the table.
    """
    way = ("float32", "eager", 1)  # an update in several parts has as many tokens as one in one
    plain = [r for r in records if (r["precision"], r["mode"], r["micro_batches"]) == way]
    axes: dict[str, tuple[Callable[[Record], int], Callable[[Record], bool], str]] = {
        "training-tokens": (_tokens, lambda r: r["shape"]["name"] == "MiniLM", "tokens per step"),
        "training-width": (_hidden, lambda r: r["shape"]["name"] == "BERT, wide", "hidden size"),
    }
    images = ""
    for name, (place, chosen, label) in axes.items():
        by_machine: dict[str, list[Record]] = {}
        for record in filter(chosen, plain):
            by_machine.setdefault(_where(record), []).append(record)
        if not by_machine:
            continue
        machine = max(by_machine, key=lambda name: len(by_machine[name]))
        lines: dict[str, dict[float, float]] = {}
        for record in by_machine[machine]:
            overhead = 100 * (record["ratio"]["median"] - 1)
            lines.setdefault(record["variant"], {})[place(record)] = overhead
        x, y = f"{label} ({machine})", "longer than the dense step (%)"
        plot_lines(lines, folder / name, x=x, y=y)
        images += f"\n![{label}]({name}.svg)\n"
    return images


def _tokens(record: Record) -> int:
    return record["batch"] * record["length"]


def _hidden(record: Record) -> int:
    return record["shape"]["hidden"]


def _command(said: str | Sequence[str]) -> str:
    return said if isinstance(said, str) else f"python scripts/bench_training.py {' '.join(said)}"


def _commands(records: Iterable[Record]) -> str:
    """Every command that gave a line, with where and when in the project's history."""
    found = {
        f"- `{_command(r['command'])}`: "
        f"{_hardware(r)}, torch {r['versions']['torch']}, commit {r['commit']}\n": None
        for r in records
        if "command" in r
    }
    return "".join(found)
