"""Compact checkpoints that anybody wrote: from_pretrained refuses them before memory is taken."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from hf_td import compact_model
from hf_td.modules.compact_file import FILE
from hf_td.modules.limits import check_counts, check_growth
from tests.compaction.models import assert_identical, uneven_model

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"
ATTENTION = "bert.encoder.layer.0.attention.self"
LAYOUT = "quantization_config"
GONE = "a key that is left out"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compact")
    compact_model(uneven_model("bert")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stock(written) -> dict[str, Any]:
    return json.loads((written / "config.json").read_text())


@pytest.fixture(scope="module")
def modeling(written) -> Any:
    """Import the modeling file that was written, as transformers does."""
    spec = importlib.util.spec_from_file_location("written_file", written / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["written_file"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["written_file"]


@pytest.fixture
def folder(written, stock):
    """Yield a folder whose config a test may change."""
    yield written
    write(written, stock)


def write(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {name: value for name, value in {**config, **values}.items() if value != GONE}


# Values of the layout, and the message.
LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "no method": ({"quant_method": GONE}, "layout should be the keys"),
    "no version": ({"version": GONE}, "layout should be the keys"),
    "no shapes": ({"shapes": GONE}, "layout should be the keys"),
    "no attributes": ({"attributes": GONE}, "layout should be the keys"),
    "an argument": ({"self": 1}, "layout should be the keys .* got .*'self'"),
    "an option": ({"return_unused_kwargs": True}, "layout should be the keys"),
    "8 bits": ({"load_in_8bit": True}, "layout should be the keys"),
    "list as method": ({"quant_method": ["hf_td"]}, "layout.quant_method should be 'hf_td'"),
    "list of shapes": ({"shapes": [1]}, "layout.shapes should be a mapping, got"),
    "text": ({"shapes": {WEIGHT: "x"}}, "should be a list of positive integers, got 'x'"),
    "text in it": ({"shapes": {WEIGHT: ["1", 2]}}, "should be a list of positive integers"),
    "negative": ({"shapes": {WEIGHT: [-1, 32]}}, r"a list of positive integers, got \[-1"),
    "infinite": ({"shapes": {WEIGHT: [float("inf"), 1]}}, "should be a list of positive integers"),
    "nested": ({"shapes": {WEIGHT: [[1], 1]}}, "should be a list of positive integers"),
    "many dims": ({"shapes": {WEIGHT: [1] * 10**4}}, r"a shape of at most \[64, 32\], got \(1, 1"),
    "huge": ({"shapes": {WEIGHT: [10**30, 32]}}, r"a shape of at most \[64, 32\], got \(1000"),
    "huge count": ({"attributes": {ATTENTION: {"num_attention_heads": 10**30}}}, "a count of at"),
    "no count": ({"attributes": {ATTENTION: {"forward": 1}}}, "should be of the counts"),
    "number": ({"attributes": {ATTENTION: 3}}, "should be a mapping, got 3"),
    "passed": ({"passed": ["bert.encoder"]}, "layout.passed should be layers of stacks"),
    "parts": ({"parts": {"a": [[[]]]}}, "layout.parts should be a mapping of model types"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_modeling_file_refuses_hostile_layouts_in_its_own_words(case, modeling, stock, folder):
    values, said = LAYOUTS[case]
    layout = changed(stock[LAYOUT], **values)
    write(folder, {**stock, LAYOUT: layout})
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(**_own(stock)))

    def load() -> None:
        modeling.CompactModelConfig.from_pretrained(folder)
        quantizer = modeling.CompactQuantizer(modeling.CompactConfig(**layout))
        quantizer._process_model_before_weight_loading(model)

    with pytest.raises(ValueError, match=f"malformed compact layout: .*{said}") as raised:
        load()
    assert len(str(raised.value)) < 1000


def _own(config: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in config.items() if n not in (LAYOUT, "auto_map", "architectures")}


@pytest.mark.parametrize("layout", [[1], "hf_td", None, 3, {}, GONE])
def test_the_modeling_file_needs_a_layout(layout, modeling, stock, folder):
    write(folder, changed(stock, **{LAYOUT: layout}))
    with pytest.raises(ValueError, match="malformed compact layout: layout should be"):
        modeling.CompactModelConfig.from_pretrained(folder)


def test_the_modeling_file_reads_a_whole_config(modeling, stock, written):
    config = modeling.CompactModelConfig.from_pretrained(written)
    assert type(config) is BertConfig
    assert config.quantization_config["shapes"] == stock[LAYOUT]["shapes"]


# Values of the config, and the message: counts before transformers reads them, code, and sizes.
COUNTS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers in .*at most 4096, got 1e"),
    "labels": ({"num_labels": 10**9}, "num_labels in .* should be at most 65536"),
    "nested": ({"a": [{"num_labels": 10**9}]}, "num_labels in .* should be at most 65536"),
    "nan": ({"num_hidden_layers": float("nan")}, "num_hidden_layers in .* at most 4096, got nan"),
    "kernel": ({"attn_implementation": "a/b"}, "attn_implementation in .* should name no code"),
    "backbone": ({"use_pretrained_backbone": True}, "use_pretrained_backbone in .* be false"),
}
SIZES: dict[str, dict[str, Any]] = {
    "vocabulary": {"vocab_size": 1 << 40},
    "positions": {"max_position_embeddings": 1 << 40},
    "types": {"type_vocab_size": 1 << 40},
    "width": {"hidden_size": 1 << 20},
}


@pytest.mark.parametrize("case", COUNTS)
def test_the_modeling_file_refuses_counts_before_a_config_is_built(case, modeling, stock, folder):
    values, said = COUNTS[case]
    write(folder, {**stock, **values})
    with pytest.raises(ValueError, match=said):
        modeling.CompactModelConfig.from_pretrained(folder)


def test_layers_are_counted_before_a_model_is_built(stock, folder):
    write(folder, {**stock, "num_hidden_layers": 10**9})
    with pytest.raises(ValueError, match=r"num_hidden_layers in .* should be at most 4096"):
        BertForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("case", SIZES)
def test_a_model_far_larger_than_its_weights_gets_no_memory(case, stock, folder):
    write(folder, {**stock, **SIZES[case]})
    said = "describes a BertModel of .* were expected, since the weights in the folder take"
    with pytest.raises(ValueError, match=said):
        AutoModel.from_pretrained(folder)


def test_a_wide_stock_model_is_fine_where_the_layout_makes_it_small(stock, folder):
    """The stock model alone would take a terabyte; it is cut down before it has memory."""
    write(folder, {**stock, "intermediate_size": 1 << 32})
    found = BertForSequenceClassification.from_pretrained(folder)
    write(folder, stock)
    assert_identical(found, BertForSequenceClassification.from_pretrained(folder))


def test_growth_is_bounded_by_the_files(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(1000))
    with torch.device("meta"):
        fits, larger = nn.Linear(1 << 26, 1, bias=False), nn.Linear((1 << 26) + 1001, 1, bias=False)
        tied = nn.ModuleList([fits, copy.copy(fits)])
    check_growth(fits, [file])
    check_growth(tied, [file])
    check_growth(larger, None)
    with pytest.raises(ValueError, match=r"a Linear of 268439460 bytes.*At most 268439456 were"):
        check_growth(larger, [file])


@pytest.mark.parametrize(
    "values",
    [
        {"n_words": 200_000, "vocab_size": 10**7, "num_embeddings": 10**6, "n_positions": 10**6},
        {"label2id": {"a": 3}, "layer_rope_theta": 500_000, "num_hidden_layers": 4096},
        {"quantization_config": {"shapes": {"layer.0": [10**6, 3]}}},
    ],
    ids=str,
)
def test_sizes_of_tables_are_no_counts(values):
    check_counts(values, "config.json")


WITHOUT = """
import json, resource, sys
sys.modules["hf_td"] = None
from pathlib import Path
from transformers import AutoModelForSequenceClassification as A
folder, cases = Path(sys.argv[1]), json.load(sys.stdin)
for case in cases:
    (folder / "config.json").write_text(json.dumps(case))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        A.from_pretrained(folder, trust_remote_code=True)
        said = "loaded"
    except ValueError as error:
        said = str(error)
    print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB")
def test_without_hf_td_all_is_refused_in_little_memory(stock, folder, tmp_path):
    hostile = [{**stock, LAYOUT: changed(stock[LAYOUT], **v)} for v, _ in LAYOUTS.values()]
    hostile += [{**stock, **values} for values, _ in COUNTS.values()]
    hostile += [{**stock, **values} for values in SIZES.values()]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder)], input=json.dumps([stock, *hostile]),
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (first, _), *rest = map(json.loads, done.stdout.splitlines())
    assert first == "loaded"
    known = [said for _, said in (*LAYOUTS.values(), *COUNTS.values())]
    known += ["were expected, since the weights"] * len(SIZES)
    for (said, kilobytes), expected in zip(rest, known, strict=True):
        assert re.search(expected, said)
        assert kilobytes < 100_000, said
