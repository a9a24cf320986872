"""Time forwards of compact models, and of others, in turn with those of the dense model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from hf_td.analysis.tables import markdown_table
from hf_td.analysis.timing import Quartiles, time_in_turn
from hf_td.compaction import compact_model
from hf_td.files import folder_bytes
from hf_td.pruning import prune_model
from lab.benchmarks.generation import KIND as GENERATION
from lab.benchmarks.generation import place_of
from lab.benchmarks.ratios import ratios

SPARSITIES = (0.25, 0.5, 0.75, 0.9)
# Batch and length.
SIZES = ((8, 128), (1, 32))
# Forwards that are timed as one.
_FORWARDS = 2


@dataclass(frozen=True)
class Case:
    """A model whose speed is compared with that of the dense model.

    Attributes:
        name: `dense`, `DistilBERT` or `compact`.
        sparsity: the fraction of heads and neurons that were taken out.
        build: makes the model.
    """

    name: str
    sparsity: float
    build: Callable[[], PreTrainedModel]


def bert_cases(config: BertConfig | None = None, *, multiple_of: int = 8) -> list[Case]:
    """Return random models of the size of BERT-base: dense, distilled and compact.

    The values of the weights do not change the times. The first case is the dense model itself:
    the distance of its ratio from 1 shows the error of the others.

    Args:
        config: in place of BERT-base's.
        multiple_of: widths of compact models are multiples of it.
    """
    config = config or BertConfig()

    def dense() -> PreTrainedModel:
        return BertForSequenceClassification(config).eval()

    def distilled() -> PreTrainedModel:
        half = DistilBertConfig(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            n_layers=config.num_hidden_layers // 2,
            n_heads=config.num_attention_heads,
            hidden_dim=config.intermediate_size,
        )
        return DistilBertForSequenceClassification(half).eval()

    def compact(sparsity: float) -> PreTrainedModel:
        model = dense()
        prune_model(model, sparsity, level="unit")
        return compact_model(model, multiple_of=multiple_of)

    return [
        Case("dense", 0, dense),
        Case("DistilBERT", 0, distilled),
        *(Case("compact", sparsity, partial(compact, sparsity)) for sparsity in SPARSITIES),
    ]


def measure_cases(
    cases: Sequence[Case],
    sizes: Iterable[tuple[int, int]] = SIZES,
    *,
    rounds: int = 9,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict[str, Any]]:
    """Time every case in turn with the first one, and yield a JSON object for each size.

    Args:
        cases: the first is the model that all are compared with.
        sizes: batch and length of the inputs.
        rounds: in each, both models run twice, and a ratio is taken. A passing load of the machine
            spoils some rounds, and so not the medians.
        device: `cpu` or `cuda`.
        dtype: of the weights.
    """
    sizes = list(sizes)
    dense: Any = cases[0].build()
    dense.to(device, dtype)
    for case in cases:
        model: Any = case.build()
        facts = {
            "case": case.name,
            "sparsity": case.sparsity,
            "parameters": model.num_parameters(),
            "bytes": bytes_on_disk(model),
            "device": device,
            "precision": str(dtype).removeprefix("torch."),
        }
        model.to(device, dtype)
        for size in sizes:
            yield {**facts, **_measure(dense, model, size, rounds, device)}


def bytes_on_disk(model: PreTrainedModel) -> int:
    """Return the size of the folder that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return folder_bytes(folder)


@torch.no_grad()
def _measure(
    dense: Any, model: Any, size: tuple[int, int], rounds: int, device: str
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, size, generator=generator).to(device)
    calls = [partial(_run, m, ids) for m in (dense, model)]
    baseline, own = time_in_turn(calls, rounds=rounds, device=device)
    return {
        "batch": size[0],
        "length": size[1],
        "speedup": asdict(ratios(baseline, own)),
        "milliseconds": asdict(_milliseconds(own)),
        "dense_milliseconds": asdict(_milliseconds(baseline)),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def _run(model: Any, ids: torch.Tensor) -> None:
    for _ in range(_FORWARDS):
        model(input_ids=ids)


def _milliseconds(seconds: Sequence[float]) -> Quartiles:
    return Quartiles.of([1000 * one / _FORWARDS for one in seconds])


def latency_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row for each record; of repeated ones only the last."""
    chosen = [r for r in records if r.get("kind") != GENERATION]
    latest = {(r["case"], r["sparsity"], r["batch"], r["length"], *_place(r)): r for r in chosen}
    head = "batch x length | on | precision | model | heads and neurons pruned | parameters"
    head += " | MB on disk | ms | ms of the dense model in turn | times as fast"
    heads = head.split(" | ")
    order = sorted(latest.values(), key=lambda r: (_place(r), -r["batch"], -r["parameters"]))
    return markdown_table(heads, map(_row, order), left_columns=len(heads))


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the device, threads and precision: old records are of the CPU and of float32."""
    return record.get("device", "cpu"), record["threads"], record.get("precision", "float32")


def _row(record: Mapping[str, Any]) -> list[str]:
    return [
        f"{record['batch']} x {record['length']}",
        place_of(record),
        record.get("precision", "float32"),
        f"{record['case']}",
        f"{record['sparsity']:.0%}" if record["case"] == "compact" else "",
        f"{record['parameters'] / 1e6:.1f} M",
        f"{record['bytes'] / 1e6:.0f}",
        *(str(Quartiles(**record[k])) for k in ("milliseconds", "dense_milliseconds", "speedup")),
    ]
