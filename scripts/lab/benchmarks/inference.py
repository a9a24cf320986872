"""How fast models of one size are when heads and neurons are gone: cases, records, a table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from hf_td.analysis.timing import Quartiles
from hf_td.compaction import compact_model
from hf_td.files import folder_bytes
from hf_td.hub.card.latency import Latency, measure_latency
from hf_td.pruning import prune_model

SPARSITIES = (0.25, 0.5, 0.75, 0.9)
# Batch and length.
SIZES = ((8, 128), (1, 32))


@dataclass(frozen=True)
class Case:
    """A model whose speed is compared with that of the dense one.

    Attributes:
        name: what it is.
        sparsity: the fraction of heads and neurons that are gone.
        build: makes it.
    """

    name: str
    sparsity: float
    build: Callable[[], PreTrainedModel]


def bert_cases(config: BertConfig | None = None, *, multiple_of: int = 8) -> list[Case]:
    """Random models of the size of BERT-base (or of `config`), whole, distilled and compact.

    Times do not depend on what the weights are. The first case is the dense model itself: how far
    its ratio is from 1 shows how far the others can be trusted.
    """
    config = config or BertConfig()

    def dense() -> PreTrainedModel:
        return BertForSequenceClassification(config).eval()

    def compact(sparsity: float) -> PreTrainedModel:
        model = dense()
        prune_model(model, sparsity, level="unit")
        return compact_model(model, multiple_of=multiple_of)

    return [
        Case("dense", 0, dense),
        Case("DistilBERT", 0, lambda: _distilled(config)),
        *(Case("compact", s, lambda s=s: compact(s)) for s in SPARSITIES),
    ]


def _distilled(config: BertConfig) -> PreTrainedModel:
    """Half of the layers, as DistilBERT has."""
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            n_layers=config.num_hidden_layers // 2,
            n_heads=config.num_attention_heads,
            hidden_dim=config.intermediate_size,
        )
    ).eval()


def measure_cases(
    cases: Sequence[Case], sizes: Iterable[tuple[int, int]] = SIZES, *, rounds: int = 9
) -> Iterator[dict[str, Any]]:
    """Time every case in turn with the first one, and give a JSON object for each size.

    Args:
        cases: the first is the model that all are compared with.
        sizes: batch and length of the inputs.
        rounds: how often each pair is compared; in a round each model runs twice. A load of the
            machine that comes and goes spoils some rounds, and so not the medians.
    """
    dense = cases[0].build()
    for case in cases:
        model = case.build()
        facts = {
            "case": case.name,
            "sparsity": case.sparsity,
            "parameters": model.num_parameters(),
            "bytes": bytes_on_disk(model),
        }
        for size in sizes:
            inputs = {"input_ids": _tokens(model, size)}
            measure_latency(dense, model, inputs, runs=2)  # warms up
            found = [measure_latency(dense, model, inputs, runs=2, warmup=0) for _ in range(rounds)]
            yield {**facts, **_latency_record(found)}


def bytes_on_disk(model: PreTrainedModel) -> int:
    """Size of what `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return folder_bytes(folder)


def _tokens(model: PreTrainedModel, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, model.config.vocab_size, size, generator=generator)


def _latency_record(rounds: Sequence[Latency]) -> dict[str, Any]:
    batch, length = rounds[0].shape
    return {
        "batch": batch,
        "length": length,
        "speedup": asdict(Quartiles.of([r.speedup for r in rounds])),
        "milliseconds": asdict(Quartiles.of([r.compact.median for r in rounds])),
        "dense_milliseconds": asdict(Quartiles.of([r.dense.median for r in rounds])),
        "rounds": len(rounds),
        "threads": rounds[0].threads,
    }


def latency_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown, a line for each record; of repeated measurements the last."""
    latest = {(r["case"], r["sparsity"], r["batch"], r["length"], r["threads"]): r for r in records}
    head = "batch x length | threads | model | heads and neurons gone | parameters | MB on disk"
    head += " | ms | ms of the dense model beside it | times as fast"
    rule = " | ".join(["---"] * (head.count("|") + 1))
    rows = sorted(map(_row, latest.values()), key=lambda row: row[0])
    return "\n".join(f"| {line} |" for line in (head, rule, *(" | ".join(r[1]) for r in rows)))


def _row(record: Mapping[str, Any]) -> tuple[tuple[Any, ...], list[str]]:
    """What orders the row, and its cells."""
    order = (record["threads"], -record["batch"], -record["parameters"])
    return order, [
        f"{record['batch']} x {record['length']}",
        f"{record['threads']}",
        f"{record['case']}",
        f"{record['sparsity']:.0%}" if record["case"] == "compact" else "",
        f"{record['parameters'] / 1e6:.1f} M",
        f"{record['bytes'] / 1e6:.0f}",
        *(str(Quartiles(**record[k])) for k in ("milliseconds", "dense_milliseconds", "speedup")),
    ]
