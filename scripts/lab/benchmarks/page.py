"""Write the page of all measurements of speed and memory: tables, plots, and missed aims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_td.analysis.plots import plot_lines
from hf_td.analysis.tables import markdown_table
from hf_td.analysis.timing import Quartiles
from hf_td.files import write_text
from lab.benchmarks.generation import KIND as GENERATION
from lab.benchmarks.pruning import on_cores, pruning_section
from lab.benchmarks.training.cases import MEMORY, SUITES, Case
from lab.benchmarks.training.variants import PORTS, RIVALS

Record = Mapping[str, Any]
# The heading of a column, and the text of its cell for a record.
Column = tuple[str, Callable[[Record], str]]

# The largest ratio to the dense step that is aimed at, by batch, length and device.
AIMS = {
    (32, 128, "cpu"): 1.04,
    (16, 64, "cpu"): 1.15,
    (32, 128, "cuda"): 1.02,
    (8, 1024, "cuda"): 1.01,
}

_INTRODUCTION = """# How fast it is

Made by `python scripts/performance.py` from training_speed.jsonl and pruning_speed.jsonl. Every
line of these files has its command, hardware, versions and commit. Figures are medians, with
quartiles in brackets, of repetitions in which the compared things took turns in one process. Models
have random weights, on which times do not depend. In lines with `keeps_freed_memory` malloc kept
freed memory: with its defaults the same step is slower or faster by chance.

"""
_STEPS = """## Training steps

Whole optimiser steps: masks, forwards, backwards, and AdamW (fused, as in the Trainer). The ratio
is to the step of the dense model in the same round. *Weight* and *unit* are targeted dropout at the
two levels, with their recipes at the final targeting: every update ranks all candidates exactly.
The naive port sorts every matrix in every forward, as the authors' code does. `parametrize` is
`torch.nn.utils.parametrize` with a mask that is ranked once per update. *Of all steps* is the sum
of a variant's steps over the sum of the dense ones, which includes what only some updates do. The
float32 eager lines of 32 x 128 and 16 x 64 tokens on an Intel Xeon were measured with the present
code: on the CPU the mask is computed in the forward, and one byte a weight is kept for the
backward. Those on an AMD EPYC are of code that computed the mask again in the backward. All other
lines are older: the mask of an update was stored.
"""
_RIVALS = """## Other methods

Steps of the methods that targeted dropout is compared with, at both levels and with their default
settings. All were measured in turn with one dense model.
"""
_PARTS = """## Parts, and their floors

The parts of targeted dropout on the weights of six layers, none of which are in the cache. The
floor is the number of bytes that a part must read and write, over the bandwidth of a copy on the
same machine. On CUDA the times include launch overhead. These lines are kept as a record: the code
that measured them has been deleted.
"""
_DRIFT = """## Why every update ranks all candidates

Fine-tuning of the built-in MiniLM on the built-in task, with the recipe of the weight level, while
the targeting is final. Suppose that each cut-off were kept for some updates. Then this share of the
targeted weights would be candidates wrongly, or wrongly none: the mean over all updates, and the
largest share in one of them. The saving would be at most the time of *masks* above. These lines are
kept as a record: the code that measured them has been deleted.
"""
_MEMORY = """## Memory

Peak of a few steps at 32 x 128, each case in a process of its own. On the CPU it includes Python
and its libraries, and two processes that do the same differ too, as the dense ones show. The lines
of an Intel Xeon are of the present code: between updates nothing of the size of a weight is kept,
and on the CPU one byte a weight lives from the forward to the backward. In those of an AMD EPYC the
mask was computed again in the backward.
"""
_PRUNING = """## Waiting outside of training

Measured by `scripts/bench_pruning.py`. The first patch of a model reads its structure: it runs
three of its layers and follows gradients through them, which is most of the time; since then all
layers are run, which takes 12 ms more for BERT-large. A second model of the same class and shape
needs no reading. The baseline of an export is `save_pretrained`, which takes as long as the disk. A
slower disk gives a lower ratio, since pruning and compacting work in memory: where
`save_pretrained` took 5.8 seconds, the ratios were 1.29 and .98. Memory is the peak of a process
minus what Python and its libraries take. `prune_folder` has no baseline: it needs memory for a file
of 1 GB that it writes and for a block; its seconds are from a busy machine, and from a command that
also named a folder for its results. On an H100, forwards through the sparse 2:4 kernels took 4.7 to
6.8 times as long as dense ones, so hf_td does not use these kernels.
"""
_REASONS = """
Three parts take as long for few tokens as for many: ranking, the product of mask and weight in the
forward, and that of mask and gradient in the backward. So their share grows as the tokens of a step
become fewer. On an AMD EPYC, with code that computed the mask in the forward and again in the
backward, each took about 15 ms and ranking 11 ms, of 1,900 ms at 32 x 128.
With bf16 the matrix products become faster and these parts do not. To rank less often could save no
more than the line *masks* below, and is no option. Where the quartiles of a line reach below 1 the
machine was noisy, and the error of the median is as large as their distance.
"""
_GPU = """## On a GPU

`bash scripts/gpu.sh` measures all of this in nine minutes on one card. What has no line is called
not measured.
"""
_NO_GPU = """
Steps were measured once, on an H100, with older code. That measurement found that masked weights of
past updates stayed in memory until Python's garbage collector ran. The fault is mended and has a
test. The kernel that ranks was not measured again either, since it begins to search at the cut-off
of the update before, needs fewer rounds, and draws once for eight weights: the parts below are
older.
"""


def write_page(
    folder: Path,
    training: Sequence[Record],
    pruning: Sequence[Record],
    inference: Sequence[Record] = (),
) -> Path:
    """Write performance.md and its plots, and return the path of the page.

    Args:
        folder: of the page.
        training: the lines of training_speed.jsonl; of repeated measurements the last counts.
        pruning: the lines of pruning_speed.jsonl.
        inference: the lines of inference.jsonl, which has a page of its own: here only what of a
            GPU is there counts.
    """
    by_kind: dict[str, list[Record]] = {}
    for record in training:
        by_kind.setdefault(record["case"], []).append(record)
    measured = _latest(by_kind.get("step", []), _STEP_IDENTITY)
    rivals = [record for record in measured if record["variant"] in RIVALS]
    steps = [record for record in measured if record["variant"] not in RIVALS]
    sections = [
        (_STEPS, _table(steps, _STEP_COLUMNS) + _comment(steps) + _plots(steps, folder)),
        (_GPU, _on_gpu(measured, by_kind.get("memory", []), inference)),
        (_RIVALS, _table(rivals, _STEP_COLUMNS)),
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
    """Return the last record of each kind on each processor."""
    found = {(_processor(r), *(repr(r.get(n)) for n in identity)): r for r in records}
    return list(found.values())


def _processor(record: Record) -> str:
    return record["hardware"]["cpu"]


def _table(records: Sequence[Record], columns: Sequence[Column]) -> str:
    if not records:
        return ""
    rows = [[cell(record) for _, cell in columns] for record in records]
    heads = [name for name, _ in columns]
    return markdown_table(heads, rows, left_columns=len(heads)) + "\n"


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
    aimed = plain and record["variant"] not in PORTS and record["micro_batches"] == 1
    return AIMS.get((record["batch"], record["length"], record["device"])) if aimed else None


def _comment(records: Sequence[Record]) -> str:
    """Return a list of the cases that are above their aims, and say where GPUs are missing."""
    lines = [
        f"- {_shape(r)}, {_size(r)}, {r['variant']}, {r['mode']}: {r['ratio']['median']:.3f}, "
        f"where at most {aim} was the aim ({_where(r)}).\n"
        for r in records
        if (aim := _aim(r)) is not None and r["ratio"]["median"] > aim
    ]
    return "\nAbove their aims:\n\n" + "".join(lines) + _REASONS if lines else ""


def _on_gpu(steps: Sequence[Record], memory: Sequence[Record], inference: Sequence[Record]) -> str:
    """Return a table of what `scripts/gpu.sh` measures: its ratio, or that it was not measured."""
    rows = []
    for suite in ("cuda", "cuda_compiled", "cuda_fsdp2"):
        rows += [_gpu_row(case, _line_of(case, steps)) for case in SUITES[suite]()]
    for case in MEMORY["cuda"]():
        found = _line_of(case, memory)
        extra = f"{found['extra_bytes_per_weight']:.1f} bytes a weight" if found else _NOT
        rows.append([f"memory, {_named(case)}", case.variant, "", extra])
    on_card = [record for record in inference if record.get("device") == "cuda"]
    for kind, what in ((None, "latency, compact and dense"), (GENERATION, "generation")):
        found = any(record.get("kind") == kind for record in on_card)
        rows.append([f"{what}, batches 1, 8, 64", "", "", "see inference.md" if found else _NOT])
    heads = ["what", "variant", "aim", "ratio"]
    missing = not any(record["device"] == "cuda" for record in steps)
    return markdown_table(heads, rows, left_columns=4) + "\n" + (_NO_GPU if missing else "")


_NOT = "not measured"


def _gpu_row(case: Case, found: Record | None) -> list[str]:
    facts = {**case.facts(), "device": "cuda"}
    aim = _aim(facts)
    return [
        _named(case),
        case.variant,
        "" if aim is None else str(aim),
        _spread(found, "ratio") if found else _NOT,
    ]


def _named(case: Case) -> str:
    facts = case.facts()
    return f"{facts['shape']['name']}, {_size(facts)}, {case.precision}, {case.mode}"


def _line_of(case: Case, records: Sequence[Record]) -> Record | None:
    """Return the last line of a case on a GPU; None if there is none."""
    wanted = {**case.facts(), "device": "cuda"}
    found = [r for r in records if all(r.get(name) == value for name, value in wanted.items())]
    return found[-1] if found else None


def _plots(records: Sequence[Record], folder: Path) -> str:
    """Plot overhead against the tokens of a step and against the width, and return the images."""
    way = ("float32", "eager", 1)  # several micro-batches would share their number of tokens
    plain = [r for r in records if (r["precision"], r["mode"], r["micro_batches"]) == way]
    axes: dict[str, tuple[str, str, Callable[[Record], int]]] = {
        "training-tokens": ("MiniLM", "tokens per step", lambda r: r["batch"] * r["length"]),
        "training-width": ("BERT, wide", "hidden size", lambda r: r["shape"]["hidden"]),
    }
    images = ""
    for name, (shape, label, place) in axes.items():
        by_machine: dict[str, list[Record]] = {}
        for record in plain:
            if record["shape"]["name"] == shape:
                by_machine.setdefault(_where(record), []).append(record)
        if not by_machine:
            continue
        # The machine with the most lines: those of others are in the table.
        machine, shown = max(by_machine.items(), key=lambda item: len(item[1]))
        lines: dict[str, dict[float, float]] = {}
        for record in shown:
            overhead = 100 * (record["ratio"]["median"] - 1)
            lines.setdefault(record["variant"], {})[place(record)] = overhead
        x, y = f"{label} ({machine})", "longer than the dense step (%)"
        plot_lines(lines, folder / name, x=x, y=y)
        images += f"\n![{label}]({name}.svg)\n"
    return images


def _commands(records: Iterable[Record]) -> str:
    """Return a list of the commands that gave the lines, with hardware, torch and commit."""
    found: dict[str, None] = {}
    for record in records:
        command = record["command"]
        if not isinstance(command, str):  # only the arguments of bench_training.py
            command = f"python scripts/bench_training.py {' '.join(command)}"
        hardware = ", ".join([_processor(record), *record["hardware"]["gpus"]])
        torch = record["versions"]["torch"]
        found[f"- `{command}`: {hardware}, torch {torch}, commit {record['commit']}\n"] = None
    return "".join(found)
