"""Compact models load by plain `from_pretrained`, and are ordinary models from then on."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    T5EncoderModel,
    Trainer,
    TrainingArguments,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from hf_td import compact_model, prune_model
from hf_td.compaction import layout_of_model
from hf_td.hub.loading import CheckedQuantizer
from hf_td.modules.compact_file import FILE, loader_source
from hf_td.modules.compact_loading import CompactConfig
from hf_td.modules.compact_saving import forget_file
from hf_td.modules.compact_shapes import QUANT_METHODS
from tests.compaction.models import (
    assert_identical,
    assert_same,
    computed,
    every_family,
    parameters_of,
    reloaded,
    small_model,
    uneven_model,
)
from tests.tiny import TEXT, VOCABULARY, tiny_inputs, tiny_model, tiny_tokenizer

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"
ATTENTION = "bert.encoder.layer.0.attention.self"


@pytest.fixture
def uneven(tmp_path) -> Any:
    """Return a compact BERT with uneven widths."""
    return compact_model(uneven_model("bert"))


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def change_layout(folder: Path, **changes: Any) -> None:
    """Write other values into the layout of a saved model."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(changes)
    path.write_text(json.dumps(config))


@every_family
def test_what_is_loaded_is_bit_for_bit_what_was_saved(family, tmp_path):
    model = small_model(family)
    found = reloaded(model, tmp_path)
    assert type(found) is type(model)
    given = {"_name_or_path": str(tmp_path), "dtype": "float32"}
    assert found.config.to_dict() == {**model.config.to_dict(), **given}
    assert found.state_dict().keys() == model.state_dict().keys()
    assert_identical(found, model)


def test_no_mark_of_a_quantized_model_is_left(uneven, tmp_path):
    found: Any = reloaded(uneven, tmp_path)
    assert not found.is_quantized
    assert not hasattr(found, "hf_quantizer")
    assert not hasattr(found, "quantization_method")
    assert isinstance(found.config.quantization_config, dict)
    assert layout_of_model(found) == layout_of_model(uneven)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loaded_model_is_cast_as_any_other(uneven, dtype, tmp_path):
    found = reloaded(uneven, tmp_path)
    narrow = found.half() if dtype is torch.float16 else found.to(dtype)
    assert {p.dtype for p in narrow.parameters()} == {dtype}
    assert_same(narrow.float(), computed(uneven), atol=1e-2, rtol=1e-2)


def test_a_type_can_be_asked_for(uneven, tmp_path):
    uneven.save_pretrained(tmp_path)
    found = type(uneven).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}


def test_a_loaded_model_is_copied_and_saved_again(uneven, tmp_path):
    first = reloaded(uneven, tmp_path / "first")
    second = reloaded(copy.deepcopy(first), tmp_path / "second")
    assert_identical(second, uneven)
    texts = [(tmp_path / name / "config.json").read_text() for name in ("first", "second")]
    assert texts[0] == texts[1]


def test_a_model_in_several_files_is_loaded(uneven, tmp_path):
    uneven.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_identical(type(uneven).from_pretrained(tmp_path), uneven)


@pytest.mark.parametrize(
    "family", ["bert", "llama", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "t5"))]
)
def test_a_loaded_model_can_be_compiled(family, tmp_path):
    found = reloaded(small_model(family), tmp_path)
    inputs = tiny_inputs(found)
    torch.compiler.reset()
    compiled = torch.compile(found, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs)[0], found(**inputs)[0], atol=1e-5, rtol=1e-5)


def examples(count: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (count, 7), generator=generator)
    return [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]


def test_a_loaded_model_is_trained_saved_and_loaded_again(uneven, tmp_path):
    found: Any = reloaded(uneven, tmp_path / "first")
    arguments = TrainingArguments(
        tmp_path / "run", max_steps=2, save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0
    )
    trainer = Trainer(found, arguments, train_dataset=examples())  # pyright: ignore
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    again = type(uneven).from_pretrained(tmp_path / "trained")
    assert_identical(again, found.eval())
    before = parameters_of(uneven)[WEIGHT]
    assert not torch.equal(parameters_of(again)[WEIGHT], before)


def test_a_loaded_model_is_pruned_further(tmp_path):
    model = small_model("bert")
    found = reloaded(model, tmp_path / "first")
    prune_model(found, 0.5, level="unit")
    expected = computed(found)
    compact_model(found, multiple_of=1)
    assert found.num_parameters() < model.num_parameters()
    assert_same(reloaded(found, tmp_path / "second"), expected)


def test_a_loaded_model_takes_adapters(uneven, tmp_path):
    found = reloaded(uneven, tmp_path / "first")
    config = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    adapted: Any = get_peft_model(found, config).eval()
    expected = computed(adapted)
    assert_same(adapted.merge_and_unload(), expected)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "BertForSequenceClassification"),
        ("gpt2", "GPT2LMHeadModel"),
        ("llama", "LlamaForCausalLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("vit", "ViTForImageClassification"),
    ],
)
def test_base_models_and_heads_load_from_each_other(family, head, tmp_path):
    model = small_model(family)
    base = reloaded(model, tmp_path / "head", AutoModel)
    layout, own = layout_of_model(base), parameters_of(base)
    assert layout is not None
    assert type(base) is not type(model)
    assert set(layout.shapes) <= set(own)
    assert all(tuple(own[name].shape) == shape for name, shape in layout.shapes.items())
    full = reloaded(base, tmp_path / "base", getattr(transformers, head))
    theirs = parameters_of(model)
    for name, value in parameters_of(full).items():
        if name in (layout_of_model(full) or layout).shapes:
            assert torch.equal(value, theirs[name]), name


def test_another_head_loads_from_a_compact_checkpoint(uneven, tmp_path):
    found: Any = reloaded(uneven, tmp_path, BertForMaskedLM)
    width = parameters_of(uneven)[WEIGHT].shape
    assert found.bert.encoder.layer[0].intermediate.dense.weight.shape == width
    assert found(**tiny_inputs(found)).logits.shape == (2, 7, VOCABULARY)


def test_a_part_of_a_compact_model_loads(tmp_path):
    whole = small_model("t5")
    encoder: Any = reloaded(whole, tmp_path / "t5", T5EncoderModel)
    theirs = parameters_of(whole)
    for name, value in parameters_of(encoder).items():
        assert torch.equal(value, theirs[name]), name
    layout = layout_of_model(encoder)
    assert layout is not None
    assert layout.shapes
    assert set(layout.shapes) <= set(parameters_of(encoder))
    assert_same(reloaded(encoder, tmp_path / "encoder"), computed(encoder))


def test_fewer_layers_of_a_compact_model_load(tmp_path):
    whole = small_model("bert")
    whole.save_pretrained(tmp_path)
    first = type(whole).from_pretrained(tmp_path, num_hidden_layers=1)
    theirs = parameters_of(whole)
    for name, value in parameters_of(first).items():
        assert torch.equal(value, theirs[name]), name


def test_a_layout_of_another_model_is_refused(uneven, tmp_path):
    config = tiny_model("roberta").config
    config.quantization_config = uneven.config.quantization_config
    saved(tiny_model("roberta"), tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"layout\.shapes\['bert.* a parameter of the model"):
        transformers.RobertaForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": 2}, r"layout\.version should be 1, got 2"),
        ({"code": "x"}, "layout should be the keys"),
        ({"shapes": {WEIGHT: [2**40, 32]}}, rf"layout\.shapes\['{WEIGHT}'\] should be a shape of"),
        ({"shapes": {WEIGHT: [0, 32]}}, rf"layout\.shapes\['{WEIGHT}'\] should be a list of pos"),
        ({"shapes": {"../x": [1]}}, r"layout\.shapes\['../x'\] should be a parameter of"),
        ({"attributes": {ATTENTION: {"forward": 1}}}, "should be of the counts"),
        ({"attributes": {ATTENTION: {"num_attention_heads": 9}}}, "a count of at most 4, got 9"),
    ],
)
def test_a_malformed_checkpoint_is_refused(uneven, tmp_path, changes, field):
    change_layout(saved(uneven, tmp_path), **changes)
    with pytest.raises(ValueError, match=f"malformed compact layout: .*{field}|{field}"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_layout_that_the_weights_do_not_have_fails_loudly(uneven, tmp_path):
    layout = layout_of_model(uneven)
    assert layout is not None
    change_layout(saved(uneven, tmp_path), shapes={**layout.to_dict()["shapes"], WEIGHT: [5, 32]})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_the_config_in_memory_names_no_modeling_file(uneven, tmp_path):
    found: Any = reloaded(uneven, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert not hasattr(uneven.config, "auto_map")
    assert not hasattr(found.config, "auto_map")


def test_the_modeling_file_of_a_repository_is_forgotten(uneven):
    uneven.config.auto_map = {
        "AutoConfig": "user/name--modeling_hf_td.CompactModelConfig",
        "AutoModel": "user/name--modeling_own.Own",
    }
    forget_file(uneven.config)
    assert uneven.config.auto_map == {"AutoModel": "user/name--modeling_own.Own"}


@pytest.fixture(scope="module")
def modeling(tmp_path_factory) -> Any:
    """Import the modeling file as a module; hf_td's loader stays registered."""
    path = tmp_path_factory.mktemp("modeling") / FILE
    path.write_text(loader_source())
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generated"] = module  # as an import does
    spec.loader.exec_module(module)
    yield module
    del sys.modules["generated"]


def shaped_by(modeling: Any, model: Any, layout: Any) -> None:
    """Give a stock model the shapes of a layout, by the loader of the modeling file."""
    quantizer = modeling.CompactQuantizer(modeling.CompactConfig(**layout))
    quantizer._process_model_before_weight_loading(model)


def test_the_modeling_file_makes_the_same_model(modeling, uneven):
    stock = tiny_model("bert")
    shaped_by(modeling, stock, uneven.config.quantization_config)
    assert str(stock) == str(uneven)
    stock.load_state_dict(uneven.state_dict())
    assert_identical(stock, uneven)


def test_the_modeling_file_leaves_a_registered_loader_alone(modeling):
    assert AUTO_QUANTIZER_MAPPING["hf_td"] is CheckedQuantizer
    assert {AUTO_QUANTIZATION_CONFIG_MAPPING[name] for name in QUANT_METHODS} == {CompactConfig}


@pytest.mark.parametrize(
    "changes",
    [
        *({"shapes": {WEIGHT: s}} for s in ([0, 32], [-1, 32], [65, 32], [8], [True, 1], [8.0, 1])),
        {"shapes": {"../x": [1]}},
        {"shapes": {"bert.__class__": [1]}},
        {"routers": ["classifier"]},
        {"parts": {"bert": 1}},
        *({"attributes": {ATTENTION: {"num_attention_heads": c}}} for c in (0, -1, 9, True, "2")),
        *({"attributes": {ATTENTION: {name: 1}}} for name in ("forward", "__class__", "nhead")),
    ],
    ids=str,
)
def test_the_modeling_file_refuses_malformed_layouts(modeling, uneven, changes):
    layout = {**uneven.config.quantization_config, **changes}
    with pytest.raises(ValueError, match="malformed compact layout"):
        shaped_by(modeling, tiny_model("bert"), layout)


def test_the_modeling_file_makes_a_part_of_the_model(modeling, uneven):
    part = BertForSequenceClassification(BertConfig(**{**TEXT, "num_hidden_layers": 1}))
    layout = uneven.config.quantization_config
    attributes = {**layout["attributes"], "os": {"num_heads": 1}}
    shaped_by(modeling, part, {**layout, "attributes": attributes})
    theirs = parameters_of(uneven)
    assert all(value.shape == theirs[name].shape for name, value in part.named_parameters())


def test_the_modeling_file_needs_no_other_package():
    imports = {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(loader_source()))
        if isinstance(node, ast.ImportFrom)
    }
    assert imports <= {*sys.stdlib_module_names, "torch", "transformers"}


def test_an_older_folder_loads(uneven, tmp_path):
    change_layout(saved(uneven, tmp_path), quant_method="hf_td")
    assert_identical(type(uneven).from_pretrained(tmp_path), uneven)


@pytest.mark.parametrize("key", [None, "encoder"])
def test_programs_read_the_layout_as_a_mapping_and_by_attributes(key, tmp_path):
    model = small_model("t5")
    for found in (model, reloaded(model, tmp_path), copy.deepcopy(model)):
        part: Any = found if key is None else getattr(found, key)
        recorded = part.config.quantization_config
        assert recorded.quant_method is None  # not quantized
        assert recorded.get("quant_method") == recorded["quant_method"] == QUANT_METHODS[1]
        assert recorded.to_dict() == dict(recorded)
        assert not hasattr(recorded, "sym")


def run(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


WITHOUT = "import sys; sys.modules['hf_td'] = None\n"
LOADED = (
    "from transformers import AutoModelForSequenceClassification as A\n"
    "model = A.from_pretrained(sys.argv[1]{})\n"
)


def test_without_hf_td_and_remote_code_loading_fails_and_tells_the_cure(uneven, tmp_path):
    done = run(WITHOUT + LOADED.format(""), saved(uneven, tmp_path))
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert "size mismatch" in done.stderr
    told = "got hf_td. This model is compact, and not quantized. To load it, `import hf_td` first"
    assert told in done.stderr
    assert "with trust_remote_code=True. Do not delete quantization_config" in done.stderr


@pytest.mark.parametrize(
    "start", ["import sys, hf_td\n", pytest.param(WITHOUT, marks=pytest.mark.slow)]
)
def test_loading_that_works_is_quiet_and_saves_what_loads_again(start, uneven, tmp_path):
    code = (
        start
        + LOADED.format(", trust_remote_code=True")
        + (
            "print(type(model).__module__, model.num_parameters())\n"
            "model.save_pretrained(sys.argv[2])\n"
            "print(A.from_pretrained(sys.argv[2], trust_remote_code=True).num_parameters())"
        )
    )
    done = run(code, saved(uneven, tmp_path / "first"), tmp_path / "second")
    assert done.returncode == 0, done.stderr
    count = uneven.num_parameters()
    assert done.stdout == f"transformers.models.bert.modeling_bert {count}\n{count}\n"
    bars = ("Loading weights", "Writing model shards")
    assert [line for line in done.stderr.split("\n") if line and not line.startswith(bars)] == []
    assert (tmp_path / "second" / FILE).read_text() == loader_source()


@pytest.mark.slow
def test_a_pipeline_of_remote_code_prints_nothing_else(uneven, tmp_path):
    saved(uneven, tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    code = WITHOUT + (
        "from transformers import pipeline\n"
        "pipe = pipeline('text-classification', sys.argv[1], trust_remote_code=True)\n"
        "print(len(pipe('a b')))"
    )
    done = run(code, tmp_path)
    assert done.stdout == "1\n", done.stderr
    assert "not supported" not in done.stderr


@pytest.mark.parametrize("order", ["hf_td, transformers", "transformers.modeling_utils, hf_td"])
def test_the_loader_is_registered_whichever_is_imported_first(order, uneven, tmp_path):
    code = (
        f"import sys\nimport {order}\n"
        "model = transformers.AutoModel.from_pretrained(sys.argv[1])\n"
        "print(model.encoder.layer[0].intermediate.dense.out_features)"
    )
    done = run(code, saved(uneven, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "16"


def test_importing_hf_td_costs_nothing():
    done = run("import hf_td, sys; print({'torch', 'transformers', 'numpy'} & {*sys.modules})")
    assert done.stdout.strip() == "set()", done.stderr


def test_the_loader_of_transformers_models_can_be_copied():
    loader = copy.copy(transformers.modeling_utils.__spec__.loader)
    assert loader.is_package("transformers.modeling_utils") is False
