"""What a user waits for besides training: cases that are timed, their records, and a table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from hf_td.analysis.timing import Quartiles
from hf_td.patching.patch import patch_model, unpatch_model
from hf_td.pruning import prune_model

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
SPARSITIES = (0.5, 0.9)
# Sentences and their length, for the curve: half as many as RTE's, a small validation set.
EVALUATED = (128, 128)

# Of the numbers that big models are filled with; a prime.
_PERIOD = 65_537

# What a case gives: fields of its record.
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Something that is timed.

    Attributes:
        measure: from a number of rounds to the records.
        aim: what it should take, in words.
        met: whether a record meets the aim.
    """

    measure: Callable[[int], Iterator[Record]]
    aim: str
    met: Callable[[Record], bool]


def measure_case(name: str, rounds: int) -> Iterator[Record]:
    """The records of one case: `CASES` has the names."""
    case = CASES[name]
    for record in case.measure(rounds):
        yield {"case": name, **record, "aim": case.aim, "met": case.met(record)}


def _timed(seconds: Sequence[float], **facts: Any) -> Record:
    spread = Quartiles.of(seconds)
    return {"seconds": spread.median, "spread": asdict(spread), "rounds": len(seconds), **facts}


def _compared(seconds: Sequence[float], baseline: Sequence[float], **facts: Any) -> Record:
    """What was timed in turn: a ratio in each round, and the median and quartiles of the ratios."""
    ratios = Quartiles.of([a / b for a, b in zip(seconds, baseline, strict=True)])
    return {
        "seconds": Quartiles.of(seconds).median,
        "baseline_seconds": Quartiles.of(baseline).median,
        "ratio": ratios.median,
        "spread": asdict(ratios),
        "rounds": len(seconds),
        **facts,
    }


def _stopwatch(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _in_fresh_process(code: str) -> Any:
    """What a program prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measurement failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measured_in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same for a function of this module."""
    name = function.__name__
    code = f"import json; from {__name__} import {name}; print(json.dumps({name}(*{arguments!r})))"
    return _in_fresh_process(code)


def first_patch() -> float:
    """Seconds of the first `patch_model` of a process, on a model of the shape of BERT-large."""
    model = _bert_large()
    return _stopwatch(lambda: patch_model(model))


def _bert_large() -> PreTrainedModel:
    return _noisy(lambda: BertForSequenceClassification(BertConfig(**BERT_LARGE)))


def _first_patches(rounds: int) -> Iterator[Record]:
    yield _timed([_measured_in_fresh_process(first_patch) for _ in range(rounds)])


def _later_patches(rounds: int) -> Iterator[Record]:
    model = unpatch_model(patch_model(_bert_large()))
    seconds = []
    for _ in range(rounds):
        seconds.append(_stopwatch(lambda: patch_model(model)))
        unpatch_model(model)
    yield _timed(seconds)


def _imports(rounds: int) -> Iterator[Record]:
    stopwatch = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    programs = stopwatch.format("transformers, hf_td"), stopwatch.format("transformers")
    pairs = [tuple(map(_in_fresh_process, programs)) for _ in range(rounds)]
    seconds, baseline = zip(*pairs, strict=True)
    added = Quartiles.of([a - b for a, b in pairs])
    yield _compared(seconds, baseline, added_seconds=added.median, added_spread=asdict(added))


def write_big_model(way: str, folder: str) -> dict[str, float]:
    """Seconds and memory of writing a model of a billion parameters, in this process.

    Args:
        way: `save` for `save_pretrained`; `compact` for pruning half of its units, taking them out
            and exporting; `unchecked` for the same without comparing the outputs.
        folder: an empty one.

    Returns:
        `seconds`, and `memory`: the peak of the process, less what it had before the model was
        made, as a multiple of the size of the model.
    """
    from hf_td.compaction import compact_model  # what loads it is not measured
    from hf_td.hub import export_model

    before = _resident_bytes()
    model = _big_model()
    size = sum(p.numel() * p.element_size() for p in model.parameters())

    def shrink() -> None:
        prune_model(model, 0.5, level="unit")
        compact_model(model, check=way == "compact")
        export_model(model, f"{folder}/{way}", check=False)

    save = partial(model.save_pretrained, f"{folder}/{way}")
    seconds = _stopwatch(save if way == "save" else shrink)
    return {"seconds": seconds, "memory": (_peak_bytes() - before) / size}


def _big_model() -> PreTrainedModel:
    """In bfloat16, and never in memory in another type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return _noisy(lambda: LlamaForCausalLM(LlamaConfig(**LLAMA_1B)))
    finally:
        torch.set_default_dtype(before)


def _noisy(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A model whose weights repeat a few random numbers: to draw all takes far too long.

    The period is odd, so that no two rows are alike.
    """
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


def _exports(way: str, rounds: int) -> Iterator[Record]:
    import tempfile

    found: dict[str, list[dict[str, float]]] = {"save": [], way: []}
    for _ in range(rounds):
        for each, values in found.items():
            with tempfile.TemporaryDirectory() as folder:
                values.append(_measured_in_fresh_process(write_big_model, each, folder))
    seconds = {each: [value["seconds"] for value in values] for each, values in found.items()}
    yield _compared(
        seconds[way],
        seconds["save"],
        memory_ratio=max(value["memory"] for value in found[way]),
        baseline_memory_ratio=max(value["memory"] for value in found["save"]),
    )


def _curves(level: str, rounds: int) -> Iterator[Record]:
    """The curve of a model of the size of BERT-base, beside its evaluations alone."""
    model = BertForSequenceClassification(BertConfig()).eval()
    ids = torch.randint(1, model.config.vocab_size, EVALUATED)
    pairs = [_curve(model, ids, level) for _ in range(rounds)]
    whole, alone = zip(*pairs, strict=True)
    yield _compared(whole, alone, points=len(SPARSITIES), sentences=EVALUATED[0])


def _curve(model: PreTrainedModel, ids: torch.Tensor, level: str) -> tuple[float, float]:
    """Seconds of a whole curve, and of its evaluations."""
    spent: list[float] = []

    def evaluate(model: Any) -> float:
        spent.append(_stopwatch(lambda: _forward(model, ids)))
        return 0.0

    whole = _stopwatch(lambda: pruning_curve(model, SPARSITIES, evaluate, level=level))
    return whole, sum(spent)


@torch.no_grad()
def _forward(model: Any, ids: torch.Tensor) -> None:
    for batch in ids.split(16):
        model(input_ids=batch)


CASES: dict[str, Case] = {
    "first_patch": Case(_first_patches, "under 50 ms", lambda r: r["seconds"] < 0.05),
    "later_patch": Case(_later_patches, "under 50 ms", lambda r: r["seconds"] < 0.05),
    "import": Case(_imports, "at most 10 ms more", lambda r: r["added_seconds"] <= 0.01),
    "export": Case(
        partial(_exports, "compact"),
        "at most 1.5 times the time, 1.2 times the memory",
        lambda r: r["ratio"] <= 1.5 and r["memory_ratio"] <= 1.2,
    ),
    "export_unchecked": Case(
        partial(_exports, "unchecked"),
        "at most 1.5 times the time, 1.2 times the memory",
        lambda r: r["ratio"] <= 1.5 and r["memory_ratio"] <= 1.2,
    ),
    "weight_curve": Case(
        partial(_curves, "weight"), "at most 5 % more", lambda r: r["ratio"] <= 1.05
    ),
    "unit_curve": Case(partial(_curves, "unit"), "at most 5 % more", lambda r: r["ratio"] <= 1.05),
}

_WHAT = {
    "first_patch": "`patch_model`, BERT-large, the first in a process",
    "later_patch": "`patch_model`, BERT-large, again",
    "import": "`import transformers, hf_td`, beside `import transformers`",
    "export": "prune, compact and export a billion parameters, beside `save_pretrained`",
    "export_unchecked": "the same with `compact_model(check=False)`",
    "weight_curve": "`pruning_curve` of weights, BERT-base, beside its evaluations alone",
    "unit_curve": "`pruning_curve` of units, BERT-base, beside its evaluations alone",
}


def pruning_section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the last record of each case on each kind of machine.

    Records of cases that are no longer measured are left out.
    """
    latest = {(r["case"], on_cores(r)): r for r in lines if r["case"] in CASES}
    head = "what | on | seconds | beside | ratio (quartiles) | memory of the model's | aim | met"
    rule = " | ".join(["---"] * (head.count("|") + 1))
    order = list(CASES)
    rows = [_row(r) for r in sorted(latest.values(), key=lambda r: order.index(r["case"]))]
    return "\n".join(f"| {line} |" for line in (head, rule, *(" | ".join(row) for row in rows)))


def _row(record: Mapping[str, Any]) -> list[str]:
    spread, ratio = record["spread"], "ratio" in record
    return [
        _WHAT[record["case"]],
        on_cores(record),
        f"{record['seconds']:.3g}" + ("" if ratio else _quartiles(spread)),
        f"{record['baseline_seconds']:.3g}" if ratio else "",
        f"{record['ratio']:.3f}{_quartiles(spread)}" if ratio else "",
        f"{record['memory_ratio']:.2f} times" if "memory_ratio" in record else "",
        record["aim"],
        "yes" if record["met"] else "**no**",
    ]


def on_cores(record: Mapping[str, Any]) -> str:
    """The cores and the processor that computed."""
    cores = "1 core" if record["threads"] == 1 else f"{record['threads']} cores"
    return f"{cores}, {record['hardware']['cpu']}"


def _quartiles(spread: Mapping[str, float]) -> str:
    return f" ({spread['low']:.3g} to {spread['high']:.3g})"
