"""Time how fast compact language models generate, in turn with the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_td.analysis.tables import markdown_table
from hf_td.analysis.timing import Quartiles, time_in_turn
from hf_td.compaction import compact_model
from hf_td.pruning import prune_model
from lab.benchmarks.ratios import ratios
from lab.benchmarks.training.cases import Shape

KIND = "generation"
SPARSITIES = (0.5, 0.75)
BATCHES = (1, 8, 64)
# Tokens of a prompt, and tokens that follow it.
LENGTHS = (128, 32)


def measure_generation(
    shape: Shape,
    *,
    batches: Iterable[int] = BATCHES,
    lengths: tuple[int, int] = LENGTHS,
    rounds: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict[str, Any]]:
    """Time greedy generation with a cache, and yield a JSON object for each sparsity and batch.

    Args:
        shape: of a Llama with random weights, whose values do not change the times.
        batches: numbers of prompts.
        lengths: tokens of a prompt, and tokens that follow it, of which none ends a text.
        rounds: in each, both models generate once; at least 2.
        device: `cpu` or `cuda`.
        dtype: of the weights.
    """
    batches = list(batches)
    dense = _random_llama(shape, device, dtype)
    for sparsity in SPARSITIES:
        model = _random_llama(shape, device, dtype)
        prune_model(model, sparsity, level="unit")
        compact_model(model, check=False)
        for batch in batches:
            yield {
                "kind": KIND,
                "model": shape.name,
                "sparsity": sparsity,
                "parameters": model.num_parameters(),
                "dense_parameters": dense.num_parameters(),
                **_measure(dense, model, batch, lengths, rounds, device),
                "device": device,
                "precision": str(dtype).removeprefix("torch."),
            }


def _random_llama(shape: Shape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device(device):
        model: Any = shape.build()
        return model.to(dtype=dtype).eval()


def _measure(
    dense: Any, model: Any, batch: int, lengths: tuple[int, int], rounds: int, device: str
) -> dict[str, Any]:
    prompt, new = lengths
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, dense.config.vocab_size, (batch, prompt), generator=draws).to(device)
    calls = [partial(write, one, ids, new) for one in (dense, model)]
    baseline, own = time_in_turn(calls, rounds=rounds, device=device)
    return {
        "batch": batch,
        "length": prompt,
        "new_tokens": new,
        "speedup": asdict(ratios(baseline, own)),
        "tokens_per_second": asdict(rates_of(own, batch * new)),
        "dense_tokens_per_second": asdict(rates_of(baseline, batch * new)),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def write(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    """Return prompts, `(rows, tokens)`, with `new` greedy tokens after each; none ends a text."""
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=new,
        max_new_tokens=new,
        pad_token_id=0,
    )


def rates_of(seconds: Sequence[float], tokens: int) -> Quartiles:
    """Return tokens per second."""
    return Quartiles.of([tokens / one for one in seconds])


def generation_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row for each record of generation; of repeats the last."""
    chosen = [r for r in records if r.get("kind") == KIND]
    identity = ("model", "sparsity", "batch", "length", "new_tokens", "device", "threads")
    latest = {tuple(r[name] for name in identity): r for r in chosen}
    if not latest:
        return ""
    heads = ["model", "heads and neurons pruned", "parameters", "prompts x tokens + new tokens"]
    heads += ["precision", "on", "tokens a second", "of the dense model in turn", "times as fast"]
    return markdown_table(heads, map(_row, latest.values()), left_columns=len(heads)) + "\n"


def _row(record: Mapping[str, Any]) -> list[str]:
    rates = ("tokens_per_second", "dense_tokens_per_second", "speedup")
    return [
        record["model"],
        f"{record['sparsity']:.0%}",
        f"{record['parameters'] / 1e6:.0f} M of {record['dense_parameters'] / 1e6:.0f} M",
        f"{record['batch']} x {record['length']} + {record['new_tokens']}",
        record["precision"],
        place_of(record),
        *(str(Quartiles(**record[name])) for name in rates),
    ]


def place_of(record: Mapping[str, Any]) -> str:
    """Return the GPU of a measurement, or its number of threads and processor."""
    if record.get("device", "cpu") == "cuda":
        return ", ".join(record["hardware"]["gpus"])
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    return f"{threads}, {record['hardware']['cpu']}"
