"""Time what a user waits for besides training: patching, importing, pruning, exporting."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from hf_td.analysis import pruning_curve
from hf_td.analysis.tables import markdown_table
from hf_td.analysis.timing import Quartiles, seconds_of
from hf_td.hub.from_disk.hollow import hollow_model
from hf_td.hub.from_disk.shards import ShardWriter
from hf_td.patching.patch import patch_model, unpatch_model
from hf_td.pruning import prune_model
from lab.benchmarks.ratios import ratios

BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
# A Llama of 1.04 billion parameters.
LLAMA_1B: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}
# Folders that are pruned from disk: of 1.04 and of 6.7 billion parameters.
FOLDERS: dict[str, dict[str, Any]] = {
    "1b": LLAMA_1B,
    "7b": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11_008,
        "tie_word_embeddings": False,
    },
}
SPARSITIES = (0.5, 0.9)
# Sentences and their length, for the curve: half as many as RTE's, a small validation set.
EVALUATED = (128, 128)

# Length of the noise that fills big models: a prime, so no two rows of a weight are equal.
_PERIOD = 65_537

# Fields of a line of results.
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Something that a user waits for.

    Attributes:
        measure: given a number of rounds, returns a record.
        aim: in words.
        met: True for a record that meets the aim.
    """

    measure: Callable[[int], Record]
    aim: str
    met: Callable[[Record], bool]


def measure_case(name: str, rounds: int) -> Record:
    """Return the record of a case in `CASES`."""
    case = CASES[name]
    record = case.measure(rounds)
    return {"case": name, **record, "aim": case.aim, "met": case.met(record)}


def _timed(seconds: Sequence[float]) -> Record:
    spread = Quartiles.of(seconds)
    return {"seconds": spread.median, "spread": asdict(spread), "rounds": len(seconds)}


def _compared(seconds: Sequence[float], baseline: Sequence[float], **facts: Any) -> Record:
    """Return the record of two measures that took turns, with the quartiles of their ratios."""
    spread = ratios(seconds, baseline)
    return {
        "seconds": Quartiles.of(seconds).median,
        "baseline_seconds": Quartiles.of(baseline).median,
        "ratio": spread.median,
        "spread": asdict(spread),
        "rounds": len(seconds),
        **facts,
    }


def _in_fresh_process(code: str) -> Any:
    """Run a program, and return the JSON value that it prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"A measurement in a process of its own failed. Its error was:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _call_in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this module in a process of its own, and return its JSON value."""
    name = function.__name__
    code = f"import json; from {__name__} import {name}; print(json.dumps({name}(*{arguments!r})))"
    return _in_fresh_process(code)


def first_patch() -> float:
    """Return the seconds of the first `patch_model` of a process, on the shape of BERT-large."""
    return seconds_of(partial(patch_model, _bert_large()))


def _bert_large() -> PreTrainedModel:
    return _with_noise(lambda: BertForSequenceClassification(BertConfig(**BERT_LARGE)))


def _first_patches(rounds: int) -> Record:
    return _timed([_call_in_fresh_process(first_patch) for _ in range(rounds)])


def _later_patches(rounds: int) -> Record:
    model = unpatch_model(patch_model(_bert_large()))
    seconds = []
    for _ in range(rounds):
        seconds.append(seconds_of(lambda: patch_model(model)))
        unpatch_model(model)
    return _timed(seconds)


def _imports(rounds: int) -> Record:
    program = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    programs = program.format("transformers, hf_td"), program.format("transformers")
    pairs = [tuple(map(_in_fresh_process, programs)) for _ in range(rounds)]
    seconds, baseline = zip(*pairs, strict=True)
    added = Quartiles.of([a - b for a, b in pairs])
    return _compared(seconds, baseline, added_seconds=added.median, added_spread=asdict(added))


def write_big_model(way: str, folder: str) -> dict[str, float]:
    """Write a model of a billion parameters, and return the time and the memory that it takes.

    Args:
        way: `save` for `save_pretrained`; `compact` for pruning half of its units, taking them out
            and exporting; `unchecked` for `compact` without the comparison of outputs.
        folder: an empty one.

    Returns:
        `seconds`, and `memory`: the peak of this process minus its memory before the model was
        made, as a multiple of the size of the model.
    """
    from hf_td.compaction import compact_model  # their imports are not timed
    from hf_td.hub import export_model

    before = _resident_bytes()
    model = _big_model()
    size = sum(p.numel() * p.element_size() for p in model.parameters())

    def shrink() -> None:
        prune_model(model, 0.5, level="unit")
        compact_model(model, check=way == "compact")
        export_model(model, f"{folder}/{way}", check=False)

    save = partial(model.save_pretrained, f"{folder}/{way}")
    seconds = seconds_of(save if way == "save" else shrink)
    return {"seconds": seconds, "memory": (_peak_bytes() - before) / size}


def write_big_folder(folder: str, sizes: str) -> None:
    """Write shards of random bfloat16 numbers with the shapes of a Llama, a tensor at a time."""
    config = LlamaConfig(**FOLDERS[sizes], architectures=["LlamaForCausalLM"])
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    noise = (torch.randn(_PERIOD) * 0.02).to(torch.bfloat16)
    writer = ShardWriter(Path(folder), shard_bytes=10**9)
    for name, parameter in hollow_model(config, torch.bfloat16).named_parameters():
        writer.add(
            name,
            noise.repeat(-(-parameter.numel() // _PERIOD))[: parameter.numel()].view(
                parameter.shape
            ),
        )
    writer.finish()


def prune_big_folder(source: str, folder: str, level: str) -> dict[str, float]:
    """Prune half of a folder from disk, and return the time and the memory that it takes.

    Returns:
        `seconds`, `bytes` of the peak of this process minus its memory before, and `memory`: these
        bytes as a multiple of the size of the folder.
    """
    from hf_td.files import folder_bytes  # its import is not timed
    from hf_td.hub.from_disk import prune_folder

    before = _resident_bytes()
    seconds = seconds_of(partial(prune_folder, source, folder, 0.5, level=level))
    used = _peak_bytes() - before
    return {"seconds": seconds, "bytes": used, "memory": used / folder_bytes(source)}


def _folders(sizes: str, level: str, rounds: int) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        _call_in_fresh_process(write_big_folder, f"{folder}/dense", sizes)
        found = []
        for number in range(rounds):
            target = f"{folder}/{number}"
            found.append(_call_in_fresh_process(prune_big_folder, f"{folder}/dense", target, level))
            shutil.rmtree(target)
    seconds = [one["seconds"] for one in found]
    spread = Quartiles.of(seconds) if rounds > 1 else Quartiles(*3 * seconds)
    return {
        "seconds": spread.median,
        "spread": asdict(spread),
        "rounds": rounds,
        "memory_ratio": max(one["memory"] for one in found),
        "peak_bytes": max(one["bytes"] for one in found),
    }


def _big_model() -> PreTrainedModel:
    """Return a Llama that is made in bfloat16, and never in memory in another dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return _with_noise(lambda: LlamaForCausalLM(LlamaConfig(**LLAMA_1B)))
    finally:
        torch.set_default_dtype(before)


def _with_noise(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a model whose weights repeat a few random numbers: to draw them all is slow."""
    with no_init_weights():
        model = build().eval()
    noise = torch.randn(_PERIOD) * 0.02
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        whole = len(flat) // _PERIOD * _PERIOD
        flat[:whole].view(-1, _PERIOD).copy_(noise)
        flat[whole:].copy_(noise[: len(flat) - whole])
    return model


def _peak_bytes() -> int:
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_bytes() -> int:
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


def _write_in_fresh_process(way: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _call_in_fresh_process(write_big_model, way, folder)


def _exports(way: str, rounds: int) -> Record:
    pairs = [tuple(map(_write_in_fresh_process, (way, "save"))) for _ in range(rounds)]
    own, saved = zip(*pairs, strict=True)
    return _compared(
        [found["seconds"] for found in own],
        [found["seconds"] for found in saved],
        memory_ratio=max(found["memory"] for found in own),
        baseline_memory_ratio=max(found["memory"] for found in saved),
    )


def _curves(level: str, rounds: int) -> Record:
    """Time the curve of a model of the size of BERT-base, and the evaluations in it."""
    model = BertForSequenceClassification(BertConfig()).eval()
    ids = torch.randint(1, model.config.vocab_size, EVALUATED)
    pairs = [_curve(model, ids, level) for _ in range(rounds)]
    whole, alone = zip(*pairs, strict=True)
    return _compared(whole, alone, points=len(SPARSITIES), sentences=EVALUATED[0])


def _curve(model: PreTrainedModel, ids: torch.Tensor, level: str) -> tuple[float, float]:
    """Return the seconds of a whole curve, and of its evaluations."""
    spent: list[float] = []

    def evaluate(model: Any) -> float:
        spent.append(seconds_of(lambda: _forward(model, ids)))
        return 0.0

    whole = seconds_of(lambda: pruning_curve(model, SPARSITIES, evaluate, level=level))
    return whole, sum(spent)


@torch.no_grad()
def _forward(model: Any, ids: torch.Tensor) -> None:
    for batch in ids.split(16):
        model(input_ids=batch)


def _case_of_exports(way: str) -> Case:
    return Case(
        partial(_exports, way),
        "at most 1.5 times the time, 1.2 times the memory",
        lambda record: record["ratio"] <= 1.5 and record["memory_ratio"] <= 1.2,
    )


def _case_of_folders(sizes: str, level: str) -> Case:
    return Case(
        partial(_folders, sizes, level),
        "at most 2.5 GB of memory",
        lambda record: record["peak_bytes"] <= 2.5e9,
    )


def _case_of_patches(measure: Callable[[int], Record]) -> Case:
    return Case(measure, "under 50 ms", lambda record: record["seconds"] < 0.05)


def _case_of_curves(level: str) -> Case:
    return Case(partial(_curves, level), "at most 5 % more", lambda record: record["ratio"] <= 1.05)


CASES: dict[str, Case] = {
    "first_patch": _case_of_patches(_first_patches),
    "later_patch": _case_of_patches(_later_patches),
    "import": Case(_imports, "at most 10 ms more", lambda r: r["added_seconds"] <= 0.01),
    "export": _case_of_exports("compact"),
    "export_unchecked": _case_of_exports("unchecked"),
    "folder_1b_unit": _case_of_folders("1b", "unit"),
    "folder_1b_weight": _case_of_folders("1b", "weight"),
    "folder_7b_unit": _case_of_folders("7b", "unit"),
    "folder_7b_weight": _case_of_folders("7b", "weight"),
    "weight_curve": _case_of_curves("weight"),
    "unit_curve": _case_of_curves("unit"),
}

# The names of cases in the table, in its order.
_LABELS = {
    "first_patch": "`patch_model`, BERT-large, the first in a process",
    "later_patch": "`patch_model`, BERT-large, again",
    "import": "`import transformers, hf_td`, compared with `import transformers`",
    "export": "prune, compact and export a billion parameters, compared with `save_pretrained`",
    "export_unchecked": "prune, compact with `check=False` and export them",
    "folder_1b_unit": "`prune_folder` of units, a billion parameters in bf16",
    "folder_1b_weight": "`prune_folder` of weights, a billion parameters in bf16",
    "folder_7b_unit": "`prune_folder` of units, 6.7 billion parameters in bf16",
    "folder_7b_weight": "`prune_folder` of weights, 6.7 billion parameters in bf16",
    "weight_curve": "`pruning_curve` of weights, BERT-base, compared with its evaluations alone",
    "unit_curve": "`pruning_curve` of units, BERT-base, compared with its evaluations alone",
}


def pruning_section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the last record of each case on each kind of machine.

    Records of cases that are no longer measured are left out.
    """
    latest = {(r["case"], on_cores(r)): r for r in lines if r["case"] in CASES}
    head = "case | on | seconds | baseline | ratio (quartiles) | memory / size of the model"
    head += " | aim | met"
    heads = head.split(" | ")
    order = list(_LABELS)
    rows = [_row(r) for r in sorted(latest.values(), key=lambda r: order.index(r["case"]))]
    return markdown_table(heads, rows, left_columns=len(heads))


def _row(record: Mapping[str, Any]) -> list[str]:
    spread, ratio = record["spread"], "ratio" in record
    return [
        _LABELS[record["case"]],
        on_cores(record),
        f"{record['seconds']:.3g}" + ("" if ratio else _quartiles(spread)),
        f"{record['baseline_seconds']:.3g}" if ratio else "",
        f"{record['ratio']:.3f}{_quartiles(spread)}" if ratio else "",
        _memory(record),
        record["aim"],
        "yes" if record["met"] else "**no**",
    ]


def _memory(record: Mapping[str, Any]) -> str:
    if "memory_ratio" not in record:
        return ""
    peak = f" ({record['peak_bytes'] / 1e9:.2f} GB)" if "peak_bytes" in record else ""
    return f"{record['memory_ratio']:.2f}{peak}"


def on_cores(record: Mapping[str, Any]) -> str:
    """Return the number of cores and the processor of a measurement."""
    cores = "1 core" if record["threads"] == 1 else f"{record['threads']} cores"
    return f"{cores}, {record['hardware']['cpu']}"


def _quartiles(spread: Mapping[str, float]) -> str:
    return f" ({spread['low']:.3g} to {spread['high']:.3g})"
