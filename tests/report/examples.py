"""Reports and results that no run wrote, for tests."""

from __future__ import annotations

from typing import Any

from hf_td.report import Entry, Point, Report, Series, Units

SPARSITIES = (0.0, 0.5, 0.9, 0.95)


def series(label: str = "targeted dropout", **changes: Any) -> Series:
    """Return a run of two seeds with all that can be measured."""
    points = tuple(
        Point(
            sparsity=s,
            removed_prunable=s,
            removed_of_all=s / 2,
            metric=(0.9 - s / 4, 0.8 - s / 4),
            parameters=1000.0 - 100 * s,
            bytes=4e6 - 1e6 * s,
            milliseconds=10.0 - 5 * s,
            dense_milliseconds=10.0,
            units=(
                Units(block="encoder.0", part="attention", kept=round(4 * (1 - s)), total=4),
                Units(block="encoder.1", part="attention", kept=round(4 * (1 - s)), total=4),
                Units(block="encoder.0", part="feed_forward", kept=10 * (1 - s), total=10),
            ),
        )
        for s in SPARSITIES
    )
    known: dict[str, Any] = {
        "label": label,
        "seeds": (0, 1),
        "points": points,
        "curves": tuple({p.sparsity: p.metric[i] for p in points} for i in (0, 1)),
        "log": tuple(
            Entry(step=i, values={"loss": 1 / (i + 1), "targeting": i / 9, "drop_rate": i / 9})
            for i in range(10)
        ),
        "timing": "Times are medians.",
        "facts": {"Model": "minilm"},
    }
    return Series(**{**known, **changes})


def report(*of: Series, **changes: Any) -> Report:
    """Return a report on these runs, or on one."""
    known: dict[str, Any] = {
        "title": "sst2, minilm",
        "task": "sst2",
        "split": "validation",
        "metric": "accuracy",
        "lower_is_better": False,
        "series": of or (series(),),
    }
    return Report(**{**known, **changes})


def results(method: str = "targeted_dropout", seeds: int = 2, **changes: Any) -> dict[str, Any]:
    """Return the content of results.json of a run that measured everything."""
    return {
        "task": "sst2",
        "model": "/home/me/minilm",
        "method": method,
        "split": "validation",
        "metric": "accuracy",
        "lower_is_better": False,
        "summary": [],
        "runs": [_run(seed) for seed in range(seeds)],
        "seconds": 90.0,
        "command": "python /home/me/clone/scripts/run_glue.py --output_dir /home/me/runs/secret",
        "configuration": {},
        "environment": {
            "versions": {"hf_td": "0.1.0", "torch": "2.13"},
            "hardware": {"cpu": "a CPU", "torch_threads": 1, "gpus": []},
            "commit": "abc",
        },
        **changes,
    }


def _run(seed: int) -> dict[str, Any]:
    time = {"median": 10.0, "low": 9.0, "high": 11.0}
    latency = {"dense": time, "compact": {**time, "median": 5.0}, "shape": [8, 48], "runs": 30}
    latency |= {"threads": 1, "dtype": "float32", "hardware": "a CPU"}
    return {
        "seed": seed,
        "training": {"updates": 60, "loss": 0.5},
        "curve": [
            {
                "sparsity": s,
                "removed_prunable": s,
                "removed_of_all": s / 2,
                "metrics": {"loss": 0.1, "accuracy": 0.9 - s / 4 - seed / 10},
                "blocks": [
                    {"name": "0", "part": "attention", "removed": int(4 * s) + seed, "total": 12}
                ],
            }
            for s in (0.0, 0.5)
        ],
        "one_answer": [],
        "costs": [
            {"sparsity": s, "form": "stock", "parameters": 100, "bytes": 400, "latency": latency}
            for s in (0.0, 0.5)
        ],
        "log": [{"step": 5, "loss": 0.6, "targeting": 0.1}, {"step": 10, "loss": 0.4}],
    }
