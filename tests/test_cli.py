"""The command line, as its users see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    ViTImageProcessor,
)

from hf_td import __version__, cli, patch_model
from hf_td.cli.loading import load_processor
from hf_td.hub.forms.form import Form
from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.models import builtin_model, find_model
from tests.families import tiny_family
from tests.tiny import tiny_model
from tests.vocabulary.test_trim import llama as tiny_llama
from tests.vocabulary.tokenizers_of import CORPUS, FAMILIES


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["hf-td", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def llama(tmp_path) -> Path:
    config = cast(LlamaConfig, tiny_model("llama").config)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_inspect_prints_blocks_levels_and_unclaimed_layers(monkeypatch, capsys, llama):
    assert run(monkeypatch, "inspect", llama) == 0
    printed = capsys.readouterr().out
    config = LlamaForCausalLM.from_pretrained(llama).config
    kv_heads = config.num_key_value_heads or 0
    shared = config.num_attention_heads // kv_heads
    assert f"{kv_heads} KV heads, each with {shared} query heads" in printed
    assert f"{config.intermediate_size} neurons" in printed
    assert "o_proj (o)" in printed
    assert "weight, unit" in printed
    assert "in no block: lm_head" in printed


def test_prune_writes_a_smaller_model_that_loads(monkeypatch, capsys, llama, tmp_path):
    out = tmp_path / "half"
    words = ("--sparsity", "0.5", "--level", "unit")
    assert run(monkeypatch, "prune", llama, out, *words) == 0
    assert "50.0% of the prunable weights are pruned" in capsys.readouterr().out
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (llama, out))
    assert after.num_parameters() < before.num_parameters()
    assert after.dtype == before.dtype
    assert torch.isfinite(after(torch.arange(9)[None]).logits).all()


@pytest.mark.parametrize("words", [(), ("--from-disk",)], ids=["in memory", "from disk"])
def test_widths_are_rounded_up_to_a_multiple(monkeypatch, llama, tmp_path, words):
    monkeypatch.setattr(Form, "verify", lambda *_: ())  # a fresh process takes seconds
    whole = AutoModelForCausalLM.from_pretrained(llama).config.intermediate_size
    half = ("--sparsity", "0.5", "--multiple-of")
    for number, width in ((1, whole // 2), (whole - 1, whole - 1)):
        out = tmp_path / str(number)
        assert run(monkeypatch, "prune", llama, out, *half, number, *words) == 0
        assert AutoModelForCausalLM.from_pretrained(out).config.intermediate_size == width


@pytest.fixture
def reader(tmp_path) -> Path:
    """A Llama with a tokenizer."""
    tokenizer = FAMILIES["byte_level"]()
    folder = tmp_path / "reader"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_trim_writes_a_model_and_tokenizer_of_the_texts(monkeypatch, capsys, reader, tmp_path):
    texts, out = tmp_path / "texts.csv", tmp_path / "trimmed"
    texts.write_text(f'text,label\n"{CORPUS[0]}",1\n"{CORPUS[1]}",0\n')
    further = max(AutoTokenizer.from_pretrained(reader).tokenize(CORPUS[3]), key=len)
    assert run(monkeypatch, "trim", reader, out, "--texts", texts, "--keep", further) == 0
    printed = capsys.readouterr().out
    assert "100.00% of the texts' tokens" in printed
    assert "no smaller" not in printed
    full, smaller = (AutoTokenizer.from_pretrained(path) for path in (reader, out))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == len(smaller) < len(full)
    assert further in smaller.get_vocab()
    assert smaller.tokenize(CORPUS[0]) == full.tokenize(CORPUS[0])


@pytest.mark.parametrize(
    ("contents", "words", "message"),
    [
        ("label\n1\n", (), "has no column of text, only label"),
        ("text\none\n", ("--keep", "no token"), "no token 'no token'"),
        ("text\none one\n", ("--min-count", "9"), "no token occurs 9 times in the texts"),
    ],
)
def test_trim_names_a_mistake(monkeypatch, capsys, reader, tmp_path, contents, words, message):
    texts, out = tmp_path / "texts.csv", tmp_path / "trimmed"
    texts.write_text(contents)
    assert run(monkeypatch, "trim", reader, out, "--texts", texts, *words) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--level", "unit"), "model.layers.0.self_attn loses 1 of 2"),
        (("--level", "unit", "--budget", "global"), "a global budget counts units"),
        (("--level", "weight"), None),
    ],
)
def test_a_sparsity_that_is_not_reached_is_explained(
    monkeypatch, capsys, llama, tmp_path, words, why
):
    words = ("prune", llama, tmp_path / "out", "--sparsity", "0.75", *words)
    assert run(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert ("less than 75.0%: " in printed) is (why is not None)
    assert (why or "") in printed


def test_a_sparsity_below_that_of_the_model_is_explained(monkeypatch, capsys, llama, tmp_path):
    level = ("--level", "weight")
    assert run(monkeypatch, "prune", llama, tmp_path / "a", "--sparsity", "0.75", *level) == 0
    assert "more than" not in capsys.readouterr().out
    again = (tmp_path / "a", "--sparsity", "0.5")
    assert run(monkeypatch, "prune", *again[:1], tmp_path / "b", *again[1:], *level) == 0
    assert "more than 50.0%: the other weights were zero before" in capsys.readouterr().out
    assert run(monkeypatch, "curve", *again, "0.75", "0.9", "--rounds", "2", *level) == 0
    assert "more than 50.0%: the other weights were zero before" in capsys.readouterr().out


def test_heads_and_neurons_are_pruned_by_default(monkeypatch, capsys, llama, tmp_path):
    assert run(monkeypatch, "prune", llama, tmp_path / "half", "--sparsity", "0.5") == 0
    before, after = (AutoModelForCausalLM.from_pretrained(p) for p in (llama, tmp_path / "half"))
    assert after.num_parameters() < before.num_parameters()
    assert "no smaller" not in capsys.readouterr().out


def test_a_result_that_is_no_smaller_says_so(monkeypatch, capsys, llama, tmp_path):
    words = ("--sparsity", "0.5", "--level", "weight")
    assert run(monkeypatch, "prune", llama, tmp_path / "half", *words) == 0
    printed = capsys.readouterr().out
    assert "the files are as large as those of the dense model" in printed
    assert "Pruned heads and neurons (level='unit') are taken out" in printed
    assert run(monkeypatch, "prune", llama, tmp_path / "a", *words, "--form", "archive") == 0
    assert "as large" not in capsys.readouterr().out


def test_all_heads_can_be_kept_for_a_stock_form(monkeypatch, capsys, tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "bert")
    words = ("prune", tmp_path / "bert", tmp_path / "half", "--sparsity", "0.5")
    assert run(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "half: compact form" in printed
    assert "(--keep-heads-stock) all heads stay" in printed
    assert run(monkeypatch, *words, "--keep-heads-stock", "--overwrite") == 0
    printed = capsys.readouterr().out
    assert "half: stock form" in printed
    assert "keep-heads-stock" not in printed


@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_an_archive_is_named_with_the_way_to_write_it_as_a_checkpoint(
    monkeypatch, capsys, llama, tmp_path, command
):
    words = ("--sparsity", "0.5", "--level", "weight", "--form", "archive")
    assert run(monkeypatch, "prune", llama, tmp_path / "small", *words) == 0
    rest = (tmp_path / "out", "--sparsity", "0.5") if command == "prune" else ()
    assert run(monkeypatch, command, tmp_path / "small", *rest) == 2
    printed = capsys.readouterr().err
    assert "is an archive of compressed weights" in printed
    assert "load_archived_model" in printed


def test_the_version_is_printed(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"hf_td {__version__}\n"


def test_truncated_weights_are_named(monkeypatch, capsys, llama):
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert run(monkeypatch, "inspect", llama) == 2
    assert f"the weights in {file} cannot be read (" in capsys.readouterr().err


def test_the_export_has_the_tokenizer(monkeypatch, tmp_path):
    out = tmp_path / "half"
    words = ("--sparsity", "0.5", "--level", "unit")
    assert run(monkeypatch, "prune", builtin_model(), out, *words) == 0
    assert (out / "tokenizer.json").is_file()


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_folder_without_a_tokenizer_gives_the_export_none(monkeypatch, capsys, tmp_path, family):
    tiny_model(family).save_pretrained(tmp_path / family)
    source = find_model(ModelArguments(model_name_or_path=str(tmp_path / family)))
    assert load_processor(source) is None
    assert "the export has no tokenizer or processor" in capsys.readouterr().out
    with pytest.raises(UsageError, match="has no tokenizer: its vocabulary would be empty"):
        source.load_tokenizer()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sparsity", "1.5"), "fraction to remove, in [0, 1]; got 1.5"),
        (("--sparsity", "0.5", "--form", "smaller"), "form must be one of"),
        (
            ("--sparsity", "0.5", "--form", "compact", "--keep-heads-stock"),
            "(--keep-heads-stock) has no effect on the form 'compact'",
        ),
        (("--sparsity", "0.5", "--importance", "learned"), "needs learned_scores.safetensors"),
    ],
)
def test_an_error_of_the_user_is_one_message(monkeypatch, capsys, llama, tmp_path, words, message):
    assert run(monkeypatch, "prune", llama, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["prune --sparsity 0.5", "export", "trim --texts a.txt"])
def test_a_model_is_not_replaced_by_what_is_made_of_it(monkeypatch, capsys, llama, command):
    command, *options = command.split()
    assert run(monkeypatch, command, llama, llama, *options, "--overwrite") == 2
    assert "is the folder of the model itself" in capsys.readouterr().err


def test_a_wrong_sparsity_is_refused_before_the_model_is_looked_for(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "prune", "./nowhere", tmp_path / "out", "--sparsity", "75") == 2
    assert "fraction to remove, in [0, 1]; got 75.0" in capsys.readouterr().err


def test_a_folder_that_holds_files_is_not_replaced(monkeypatch, capsys, llama, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    words = ("--sparsity", "0.5", "--level", "unit")
    assert run(monkeypatch, "prune", llama, tmp_path / "full", *words) == 2
    assert "on the command line --overwrite" in capsys.readouterr().err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["./nowhere", "new:bert"])
def test_an_untrained_model_is_refused(monkeypatch, capsys, name):
    assert run(monkeypatch, "inspect", name) == 2
    assert name.removeprefix("./") in capsys.readouterr().err


def test_a_config_without_a_class_is_refused(monkeypatch, capsys, llama, tmp_path):
    config = json.loads((llama / "config.json").read_text())
    del config["architectures"]
    (llama / "config.json").write_text(json.dumps(config))
    assert run(monkeypatch, "prune", llama, tmp_path / "half", "--sparsity", 0.5) != 0
    assert "names no known class of the model" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_the_export_has_the_image_processor(monkeypatch, tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    words = ("prune", tmp_path / "vit", tmp_path / "half", "--sparsity", 0.5, "--level", "unit")
    assert run(monkeypatch, *words) == 0
    assert (tmp_path / "half" / "preprocessor_config.json").is_file()


def test_inspect_prints_full_names_to_a_pipe(monkeypatch, capsys, tmp_path):
    tiny_model("t5").save_pretrained(tmp_path / "t5")
    assert run(monkeypatch, "inspect", tmp_path / "t5") == 0
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "printed"),
    [
        ("bert", "bert.encoder.layer, 2 layers that can be pruned whole"),
        ("t5", "encoder.block, 1 of 2 layers can be pruned whole, all but 0 (without 0, layer 1"),
        ("albert", "albert.encoder.albert_layer_groups, no layer can be pruned whole: layer 0 is"),
    ],
)
def test_inspect_prints_stacks_of_layers(monkeypatch, capsys, tmp_path, family, printed):
    tiny_family(family).save_pretrained(tmp_path / family)
    assert run(monkeypatch, "inspect", tmp_path / family) == 0
    assert f"stack of layers: {printed}" in capsys.readouterr().out


def test_without_activations_the_importance_must_be_given(monkeypatch, capsys, tmp_path):
    model = patch_model(tiny_model("bert"), level="weight", importance="activation")
    model.save_pretrained(tmp_path / "trained")
    words = ("prune", tmp_path / "trained", tmp_path / "half", "--sparsity", "0.5")
    assert run(monkeypatch, *words) == 2
    printed = capsys.readouterr().err
    assert "--importance activation needs activations.safetensors, which is missing" in printed
    assert "the same command with --importance magnitude" in printed
    assert run(monkeypatch, *words, "--importance", "magnitude") == 0
    assert "50.0% of the prunable weights are pruned" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_an_input_of_the_users_own_is_read_and_run(monkeypatch, capsys, llama, tmp_path, command):
    file = tmp_path / "inputs.json"
    words = ("inspect", llama) if command == "inspect" else ("prune", llama, tmp_path / "out")
    half = ("--sparsity", "0.5", "--level", "unit") if command == "prune" else ()
    file.write_text('{"input_ids": [[5, 999]]}')
    assert run(monkeypatch, *words, *half, "--example-inputs", file) == 2
    assert "LlamaForCausalLM does not run on example_inputs" in capsys.readouterr().err
    file.write_text('{"input_ids": [[5, 6, 7]]}')
    assert run(monkeypatch, *words, *half, "--example-inputs", file) == 0


def test_a_folder_is_pruned_from_disk(monkeypatch, capsys, llama, tmp_path):
    words = ("--sparsity", "0.5", "--budget", "global")
    assert run(monkeypatch, "prune", llama, tmp_path / "loaded", *words) == 0
    printed = capsys.readouterr().out.replace("loaded", "disk")
    assert run(monkeypatch, "prune", llama, tmp_path / "disk", *words, "--from-disk") == 0
    removed = next(line for line in printed.splitlines() if "% of the prunable weights" in line)
    assert removed in capsys.readouterr().out
    load = AutoModelForCausalLM.from_pretrained
    ids = torch.arange(9)[None]
    outputs = [load(tmp_path / name).eval()(ids).logits for name in ("loaded", "disk")]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("nowhere", (), "prunes a folder with a config.json, and nowhere is none"),
        (None, ("--trust-remote-code",), "Leave out --example-inputs and --trust-remote-code"),
        (None, ("--form", "onnx"), "form 'onnx' needs the whole model in memory"),
    ],
)
def test_what_cannot_be_pruned_from_disk_is_refused(
    monkeypatch, capsys, llama, tmp_path, name, words, message
):
    words = ("prune", name or llama, tmp_path / "out", "--sparsity", "0.5", "--from-disk", *words)
    assert run(monkeypatch, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_activations_of_a_training_are_no_cure_for_a_compact_model(
    monkeypatch, capsys, tmp_path
):
    model = patch_model(tiny_model("bert"), level="unit", importance="activation")
    model.save_pretrained(tmp_path / "trained")
    words = ("--sparsity", "0.5", "--importance", "magnitude")
    assert run(monkeypatch, "prune", tmp_path / "trained", tmp_path / "small", *words) == 0
    assert run(monkeypatch, "prune", tmp_path / "small", tmp_path / "smaller", *words[:2]) == 2
    assert "It does not fit a compact model. Prune the model that" in capsys.readouterr().err
