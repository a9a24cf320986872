"""What is fuzzed: one row for each reader of files that anybody may have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from lab.sweeps import plan_cells, read_report, read_sweep

from hf_td import Schedule, TargetedDropoutConfig, compact_model
from hf_td.cli.amounts import read_units
from hf_td.files import append_json_line, read_json, read_json_lines
from hf_td.hub import export_model, load_archived_model
from hf_td.hub.archive import load_archive, save_archive
from hf_td.hub.archive.description import digest_of
from hf_td.hub.safetensors_files import find_weights
from hf_td.modules.compact_saving import layout_of_config
from hf_td.modules.compact_shapes import CompactLayout
from hf_td.pruning.times import Times
from hf_td.ranking.activations import ACTIVATIONS, Activations
from hf_td.ranking.learned import LEARNED
from hf_td.tasks.errors import UsageError
from hf_td.tasks.example_inputs import read_example_inputs
from hf_td.tasks.experiment.reporting import recorded_by_a_run, report_of
from hf_td.training.checkpoints import is_torn, mark
from tests.compaction.models import uneven_model
from tests.fuzz.mutations import (
    Mutate,
    join_safetensors,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    mutate_value,
    split_safetensors,
)
from tests.lab.sweeps.grids import GRID
from tests.programs import load_script
from tests.tiny import tiny_model

# The most bytes of tensors of an archive that is read.
LIMIT = 1 << 20
ARCHIVE = "model.archive.safetensors"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        file: name of the file that is changed.
        seeds: writes whole files into an empty folder, one for each seed, and returns their
            contents. What else the folder has to hold stays there.
        read: reads the file in a folder.
        mutate: changes the content of a seed.
        errors: the documented ones.
    """

    file: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    mutate: Mutate
    errors: tuple[type[Exception], ...] = (ValueError,)


@dataclass
class Reader:
    """A target in a folder.

    Args:
        target: what is read.
        folder: an empty folder, in memory if that is to be fast.
    """

    target: Target
    folder: Path
    seeds: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.seeds = self.target.seeds(self.folder)

    def case(self, number: int) -> bytes:
        """Return the content of a case, which its number alone decides."""
        draws = Random(number)
        return self.target.mutate(self.seeds[number % len(self.seeds)], draws)

    def read(self, content: bytes) -> bool:
        """Read a content; return False if it was refused by a documented error."""
        path = self.folder / self.target.file
        with path.open("wb", buffering=0) as file:
            file.write(content)
        try:
            self.target.read(self.folder)
        except self.target.errors:
            return False
        return True


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# ---- layouts and configs -----------------------------------------------------------------------


def _layout_seeds(folder: Path) -> list[bytes]:
    model = uneven_model("bert")
    layout = layout_of_config(compact_model(model, multiple_of=1).config)
    assert layout is not None
    more = {"routers": [], "passed": ["bert.encoder.layer.1"], "parts": {"vit": "bert"}}
    return [_json(layout.to_dict()), _json({**layout.to_dict(), **more})]


@cache
def _stock() -> Any:
    model = tiny_model("bert")
    with torch.device("meta"):
        return type(model)(model.config)


def _read_layout(folder: Path) -> None:
    layout = CompactLayout.from_dict(read_json(folder / "layout.json"))
    layout.for_model(_stock()).check(_stock())


def _read_config(folder: Path) -> None:
    config = TargetedDropoutConfig.from_dict(read_json(folder / "targeted_dropout.json"))
    assert TargetedDropoutConfig.from_dict(config.to_dict()) == config


def _config_seeds(folder: Path) -> list[bytes]:
    plain = TargetedDropoutConfig()
    rich = TargetedDropoutConfig(
        level="unit", targeting_schedule=Schedule(shape="linear", initial=0.5, off=0.5)
    )
    return [_json(one.to_dict()) for one in (plain, rich)]


# ---- archives and tensors ----------------------------------------------------------------------


def _archive_seeds(folder: Path) -> list[bytes]:
    draws = torch.Generator().manual_seed(0)
    some = torch.rand(40, generator=draws)
    tensors = {
        "a.dense": some[:8].reshape(2, 4),
        "a.gaps": torch.where(torch.arange(400) % 90 == 0, 1.0, 0.0),
        "a.mask": torch.where(some > 0.5, some, 0).bfloat16(),
        "a.count": torch.tensor(3),
        "a.none": torch.zeros(0, 3),
    }
    path = folder / ARCHIVE
    contents = []
    for names in (list(tensors), ["a.gaps"], ["a.mask"]):
        save_archive({name: tensors[name] for name in names}, path, metadata={"a": "b"})
        contents.append(path.read_bytes())
    return contents


def _mutate_archive(content: bytes, draws: Random) -> bytes:
    """Return an archive with changed bytes, or with a changed description whose digest is right."""
    if draws.random() < 0.3:
        return mutate_safetensors(content, draws)
    header, data = split_safetensors(content)
    description = json.loads(header["__metadata__"]["description"])
    if draws.random() < 0.7:
        description = mutate_value(description, draws)
    else:
        data, description = _other_stream(header, data, description, draws)
    return _described(header, data, description)


def _other_stream(header: Any, data: bytes, description: Any, draws: Random) -> tuple[bytes, Any]:
    """Return data with a changed stream of the same length, and the digest that then is right."""
    entry = draws.choice(description["tensors"])
    names = [name for name in header if name.startswith(f"{entry['names'][0]}/")]
    begin, end = header[draws.choice(names)]["data_offsets"]
    changed = mutate_bytes(data[begin:end], draws)[: end - begin].ljust(end - begin, b"\0")
    data = data[:begin] + changed + data[end:]
    places = [header[name]["data_offsets"] for name in _in_order(names)]
    digest = digest_of([data[a:b] for a, b in places])
    entries = [{**one, "digest": digest} if one is entry else one for one in description["tensors"]]
    return data, {**description, "tensors": entries}


def _in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.endswith("positions"), name))


def _described(header: Any, data: bytes, description: Any) -> bytes:
    text = json.dumps(description)
    own = {"description": text, "digest": digest_of([text.encode()])}
    return join_safetensors({**header, "__metadata__": {**header["__metadata__"], **own}}, data)


def _read_archive(folder: Path) -> None:
    tensors = load_archive(folder / ARCHIVE, limit=LIMIT)
    assert sum({id(t): t.nbytes for t in tensors.values()}.values()) <= LIMIT


def _activations(folder: Path) -> list[bytes]:
    Activations({"a.b": torch.rand(8), "c": torch.rand(3)}).save(folder)
    return [(folder / ACTIVATIONS.file).read_bytes()]


def _scores(folder: Path) -> list[bytes]:
    LEARNED.save(folder, {"a.b": torch.randn(2, 4), "c": torch.randn(3)})
    return [(folder / LEARNED.file).read_bytes()]


def _read_activations(folder: Path) -> None:
    found = Activations.load(folder)
    assert found is not None
    for tensor in found.mean_squares.values():
        assert tensor.isfinite().all()
        assert tensor.min() >= 0


def _read_scores(folder: Path) -> None:
    for tensor in LEARNED.read(folder / LEARNED.file).values():
        assert (tensor <= LEARNED.most).all()  # minus infinity marks what is removed already


# ---- export folders ----------------------------------------------------------------------------


def _exported(family: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        model = tiny_model(family)
        export_model(model, folder / "x", form="archive", check=False)
        for path in (folder / "x").iterdir():
            path.rename(folder / path.name)
        return [(folder / "config.json").read_bytes()]

    return seeds


def _read_export(folder: Path) -> None:
    load_archived_model(folder, limit=LIMIT)


def _index_seeds(folder: Path) -> list[bytes]:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return [_json({"metadata": {"total_size": 9}, "weight_map": names})]


def _read_index(folder: Path) -> None:
    for path in find_weights(folder):
        assert path.parent == folder, path


# ---- sweeps, results and records ---------------------------------------------------------------


def _sweep_seeds(folder: Path) -> list[bytes]:
    knobs = {"tasks": ["sst2"], "methods": {"targeted_dropout": {"targeting": [0.5, 0.7]}}}
    return [yaml.safe_dump(one).encode() for one in (GRID, {**GRID, "knobs": knobs})]


def _mutate_yaml(content: bytes, draws: Random) -> bytes:
    if draws.random() < 0.3:
        return mutate_bytes(content, draws)
    value = mutate_value(yaml.safe_load(content), draws)
    return yaml.safe_dump(value).encode(errors="replace")


def _read_sweep(folder: Path) -> None:
    plan_cells(read_sweep(folder / "sweep.yaml"))


def _line_seeds(folder: Path) -> list[bytes]:
    path = folder / "seed.jsonl"
    place = {
        "part": "grid", "task": "sst2", "level": "unit", "method": "none", "label": None,
        "seed": 0, "knobs": {}, "cell": "abc",
    }  # fmt: skip
    point = {"sparsity": 0.5, "removed_prunable": 0.5, "removed_of_all": 0.2}
    line = {
        "cell": "abc", "seed": 0, "method": "none", "task": "sst2", "metric": "accuracy",
        "curve": [{**point, "metrics": {"accuracy": 0.75, "loss": 0.5}}], "seconds": 3.0,
    }  # fmt: skip
    append_json_line(path, {"title": "A", "plan": [place]})
    append_json_line(path, line)
    return [path.read_bytes()]


def _read_lines(folder: Path) -> None:
    read_json_lines(folder / "cells.jsonl")


def _read_report(folder: Path) -> None:
    read_report([folder / "cells.jsonl"])


def _result_seeds(folder: Path) -> list[bytes]:
    spread = {"mean": 0.75, "std": 0.0, "min": 0.75, "max": 0.75}
    shares = {"sparsity": 0.5, "removed_prunable": 0.5, "removed_of_all": 0.2}
    summary = [{**shares, "seeds": 1, "metrics": {"accuracy": spread}}]
    run = {"seed": 0, "curve": [{**shares, "metrics": {"accuracy": 0.75}}]}
    hardware = {"cpu": "c", "gpus": [], "torch_threads": 1}
    environment = {"hardware": hardware, "versions": {"torch": "2"}, "commit": "a"}
    results = {
        "task": "sst2", "model": "m", "method": "none", "metric": "accuracy",
        "environment": environment, "seconds": 60.0, "command": "python run.py",
    }  # fmt: skip
    return [_json({**results, "lower_is_better": False, "summary": summary, "runs": [run]})]


@cache
def _compare() -> Any:
    return load_script("compare")


def _read_results(folder: Path) -> None:
    _compare().read_results(folder / "results.json")


def _mark_seeds(folder: Path) -> list[bytes]:
    (folder / "weights").write_bytes(b"123")
    mark(folder)
    return [(folder / "whole.json").read_bytes()]


def _time_seeds(folder: Path) -> list[bytes]:
    curve = {
        "block": "model.layers.*.mlp", "part": "neurons", "units": 64, "blocks": 2,
        "counts": [16, 32, 64], "milliseconds": [0.0, 1.0, 2.0],
    }  # fmt: skip
    machine = {"hardware": "cpu", "device": "cpu", "dtype": "float32", "threads": 1}
    return [_json({"curves": [curve], "whole": 9.0, "shape": [1, 8], **machine})]


def _read_times(folder: Path) -> None:
    Times.load(folder / "times.json")


def _read_units(folder: Path) -> None:
    read_units(folder / "units.json")


def _unit_seeds(folder: Path) -> list[bytes]:
    return [_json({"heads": {"0": [1, 3]}, "neurons": {"5": [0, 7]}})]


def _input_seeds(folder: Path) -> list[bytes]:
    return [_json({"input_ids": [[5, 6, 7]], "inputs_embeds": [[0.5, 1.0]], "use_cache": False})]


def _read_inputs(folder: Path) -> None:
    read_example_inputs(folder / "inputs.json", _stock_on_cpu())


@cache
def _stock_on_cpu() -> Any:
    return tiny_model("bert")


def _read_series(folder: Path) -> None:
    results = _compare().read_results(folder / "results.json")
    with recorded_by_a_run():
        report_of([results])


TARGETS: dict[str, Target] = {
    "layout": Target("layout.json", _layout_seeds, _read_layout, mutate_json),
    "archive": Target(ARCHIVE, _archive_seeds, _read_archive, _mutate_archive),
    "activations": Target(ACTIVATIONS.file, _activations, _read_activations, mutate_safetensors),
    "scores": Target(LEARNED.file, _scores, _read_scores, mutate_safetensors),
    "recorded config": Target("targeted_dropout.json", _config_seeds, _read_config, mutate_json),
    **{
        f"export of {family}": Target("config.json", _exported(family), _read_export, mutate_json)
        for family in ("llama", "bert")
    },
    "index": Target("model.safetensors.index.json", _index_seeds, _read_index, mutate_json),
    "sweep": Target("sweep.yaml", _sweep_seeds, _read_sweep, _mutate_yaml, (UsageError,)),
    "lines": Target("cells.jsonl", _line_seeds, _read_lines, mutate_lines, ()),
    "report": Target("cells.jsonl", _line_seeds, _read_report, mutate_lines, (UsageError,)),
    "results": Target("results.json", _result_seeds, _read_results, mutate_json, (UsageError,)),
    "checkpoint": Target("whole.json", _mark_seeds, is_torn, mutate_json, ()),
    "times": Target("times.json", _time_seeds, _read_times, mutate_json),
    "inputs": Target("inputs.json", _input_seeds, _read_inputs, mutate_json, (UsageError,)),
    "page": Target("results.json", _result_seeds, _read_series, mutate_json, (UsageError,)),
    "units": Target("units.json", _unit_seeds, _read_units, mutate_json, (UsageError,)),
}
