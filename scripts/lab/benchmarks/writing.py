"""Let compact language models write, in turn with the dense one: speed, bytes and text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from hf_td.analysis.tables import markdown_table
from hf_td.analysis.timing import Quartiles, time_in_turn
from hf_td.compaction import can_compact, compact_model
from hf_td.pruning import prune_model
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import Arguments
from hf_td.tasks.experiment.calibration import how_to_prune
from hf_td.tasks.task import Task
from lab.benchmarks.generation import rates_of, write
from lab.benchmarks.inference import bytes_on_disk
from lab.benchmarks.ratios import ratios

BATCHES = (1, 8)
_PROMPT = 32


def measure_writing(
    task: Task, arguments: Arguments, *, rounds: int, written: int, batches: Sequence[int] = BATCHES
) -> Iterator[dict[str, Any]]:
    """Yield a JSON object for each sparsity of the arguments: speed, bytes and a text.

    Args:
        task: of language modelling; the prompts are of its evaluation data.
        arguments: of the task, with level, importance and sparsities; `bf16` is the type of the
            weights.
        rounds: in each, the dense and the compact model write once.
        written: tokens that each row of a batch gets, at least 1.
        batches: numbers of rows.

    Raises:
        UsageError: the level leaves nothing that can be taken out.
    """
    if arguments.training.level != "unit":
        raise UsageError("only whole units are taken out of a model. Give --level unit.")
    assert task.continue_text is not None
    dense = _loaded(task, arguments)
    for sparsity in arguments.sparsities:
        model = _loaded(task, arguments)
        report = prune_model(model, sparsity, **how_to_prune(model, task, arguments))
        model = compact_model(model) if can_compact(model) else model
        prompt, text = task.continue_text(model)
        yield {
            "sparsity": sparsity,
            "removed_of_all": report.share_of_parameters,
            "parameters": model.num_parameters(),
            "bytes": bytes_on_disk(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "prompt": prompt,
            "text": text,
            "speed": [_speed(dense, model, task, rows, rounds, written) for rows in batches],
        }


def _loaded(task: Task, arguments: Arguments) -> Any:
    dtype = torch.bfloat16 if arguments.training.bf16 else torch.float32
    model: Any = task.make_model()
    return model.eval().to(dtype)


def _speed(
    dense: Any, model: Any, task: Task, rows: int, rounds: int, written: int
) -> dict[str, Any]:
    """Return tokens per second of both models, and the ratio of their times round by round."""
    prompts = torch.stack(
        [task.eval_data[i % len(task.eval_data)]["input_ids"] for i in range(rows)]
    )
    calls = [partial(write, one, prompts[:, :_PROMPT], written) for one in (dense, model)]
    before, after = time_in_turn(calls, rounds=rounds)
    return {
        "batch": rows,
        "tokens_per_second": asdict(rates_of(after, rows * written)),
        "dense_tokens_per_second": asdict(rates_of(before, rows * written)),
        "speedup": asdict(ratios(before, after)),
        "written": written,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def writing_section(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of a page with speed, bytes and texts, by the last record of a sparsity."""
    latest = {record["sparsity"]: record for record in records}
    order = [latest[sparsity] for sparsity in sorted(latest)]
    heads = "heads and neurons pruned | of all parameters | parameters | MB on disk | batch"
    heads += " | tokens per second | of the dense model in turn | times as fast"
    rows = [_row(record, speed) for record in order for speed in record["speed"]]
    first = order[0]
    speed = first["speed"][0]
    facts = (
        f"Compact models in {first['dtype']}, {speed['threads']} thread(s), {speed['written']} "
        f"tokens after {_PROMPT} of a prompt, with a cache. In each of {speed['rounds']} rounds "
        "the dense and the compact model wrote in turn. Medians, with quartiles in brackets."
    )
    texts = [
        [f"{record['sparsity']:.0%}", " ".join(record["text"].split()).replace("|", "\\|")]
        for record in order
    ]
    prompt = " ".join(first["prompt"].split())
    return "\n\n".join(
        [
            "## Speed and size of compact models",
            facts,
            markdown_table(heads.split(" | "), rows, left_columns=0),
            "## What they write",
            f"The likeliest continuation of a text of the measured split: *{prompt}*",
            markdown_table(["pruned", "continuation"], texts),
            f"Made by `{first['command']}`, commit `{first['environment']['commit']}`.\n",
        ]
    )


def _row(record: Mapping[str, Any], speed: Mapping[str, Any]) -> list[str]:
    keys = ("tokens_per_second", "dense_tokens_per_second", "speedup")
    return [
        f"{record['sparsity']:.0%}",
        f"{record['removed_of_all']:.0%}",
        f"{record['parameters'] / 1e6:.1f} M",
        f"{record['bytes'] / 1e6:.0f}",
        f"{speed['batch']}",
        *(str(Quartiles(**speed[key])) for key in keys),
    ]
