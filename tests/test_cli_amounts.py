"""How much to prune, on the command line: parts, units by name, wishes, calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

from hf_td import Times, patch_model, prune_model, prune_units, unpatch_model
from hf_td.cli import forecasting
from hf_td.cli.amounts import read_sparsity, read_units
from hf_td.hub.forms.form import Form
from hf_td.tasks.data.calibration import calibration_batches
from hf_td.tasks.errors import UsageError
from hf_td.tasks.progress import Job, Part
from hf_td.tasks.sizes import parse_bytes
from hf_td.wishes.measures import Measures
from tests.test_cli import run
from tests.test_cli_report import Terminal
from tests.vocabulary.test_trim import llama as tiny_llama
from tests.vocabulary.tokenizers_of import CORPUS, FAMILIES


@pytest.fixture(autouse=True)
def unchecked(monkeypatch) -> None:
    """Skip loading each export in a new process."""
    monkeypatch.setattr(Form, "verify", lambda *_: ())


@pytest.fixture
def reader(tmp_path) -> Path:
    """A Llama with a tokenizer."""
    tokenizer = FAMILIES["byte_level"]()
    folder = tmp_path / "reader"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.md"  # any name will do
    file.write_text("\n\n".join(CORPUS))
    return file


def parameters_after(model: Any) -> int:
    """The number of parameters that a masked model has without its pruned neurons and heads."""
    from hf_td import compact_model

    return compact_model(model).num_parameters()


def loaded(folder: Path) -> Any:
    import hf_td  # noqa: F401 - knows how to load uneven widths

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "words",
    [
        ("--sparsity", "attention=0.5", "feed_forward=0.25"),
        ("--sparsity", "attention=0.5,feed_forward=0.25"),
        ("--sparsity", "attention=0.5", "--sparsity", "feed_forward=0.25"),
    ],
)
def test_each_part_has_its_sparsity(monkeypatch, capsys, reader, tmp_path, words):
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    assert "(attention 50.0%, feed_forward 25.0% asked for)" in printed
    model = loaded(reader)
    prune_model(model, {"attention": 0.5, "feed_forward": 0.25}, level="unit")
    assert loaded(tmp_path / "out").num_parameters() == parameters_after(model)


def test_layers_are_pruned_by_their_number(monkeypatch, capsys, reader, tmp_path):
    words = ("--sparsity", "attention=0.5", "layers=1")
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 0
    assert "(attention 50.0%, layers 1 asked for)" in capsys.readouterr().out
    before, after = loaded(reader).config, loaded(tmp_path / "out").config
    assert after.num_hidden_layers == before.num_hidden_layers - 1


def test_units_by_name_come_from_a_file(monkeypatch, capsys, reader, tmp_path):
    units = {"heads": {"0": [1]}, "neurons": {"1": list(range(16))}}
    (tmp_path / "units.json").write_text(json.dumps(units))
    words = ("--units", tmp_path / "units.json")
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 0
    model = loaded(reader)
    prune_units(model, {"heads": {0: [1]}, "neurons": {1: range(16)}})
    assert loaded(tmp_path / "out").num_parameters() == parameters_after(model)


def test_a_size_is_wanted_and_got(monkeypatch, capsys, reader, tmp_path):
    assert run(monkeypatch, "prune", reader, tmp_path / "dense", "--sparsity", "0") == 0
    dense = sum(file.stat().st_size for file in (tmp_path / "dense").rglob("*"))
    wanted = dense - 20_000
    words = ("--max-bytes", f"{wanted / 1000}kB")
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 0
    size = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*"))
    assert size <= wanted
    printed = capsys.readouterr().out
    assert f"max_bytes: wanted {wanted / 1e6:.2f} MB, got {size / 1e6:.2f} MB" in printed


def test_a_speed_that_cannot_be_met_names_the_nearest(monkeypatch, capsys, reader, tmp_path):
    words = ("--speedup", "500", "--batch", "2", "--length", "8", "--threads", "1")
    monkeypatch.setattr(Measures, "time", lambda measures: 0.5)
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 2
    assert "The nearest wish is speedup=2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_latency_is_spent_by_a_table_that_is_kept(monkeypatch, capsys, reader, tmp_path):
    table = tmp_path / "times.json"
    words = ("--sparsity", "0.5", "--budget", "global", "--of", "latency", "--times", table)
    assert run(monkeypatch, "prune", reader, tmp_path / "one", *words, "--length", "8") == 0
    times = Times.load(table)
    assert times.shape == (1, 8)
    assert f"the table of times is in {table}" in capsys.readouterr().out
    before = table.read_bytes()
    assert run(monkeypatch, "prune", reader, tmp_path / "two", *words) == 0
    assert table.read_bytes() == before
    one, two = loaded(tmp_path / "one"), loaded(tmp_path / "two")
    assert one.num_parameters() == two.num_parameters()


@pytest.mark.parametrize(
    "words",
    [(), ("--importance", "taylor"), ("--compensate", "least_squares")],
    ids=["activation", "taylor", "compensated"],
)
def test_texts_say_what_is_important(monkeypatch, capsys, reader, texts, tmp_path, words):
    words = ("--sparsity", "0.5", "--calibration", texts, *words)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    jobs: list[tuple[float, Part]] = []

    def observed(parts: dict[str, Part], **more: Any) -> Job:
        part = parts["running the texts"]
        jobs.append((part.units, part))
        return Job(parts, **more)

    monkeypatch.setattr(forecasting, "Job", observed)
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["export"]["form"] == "stock"
    shown = terminal.getvalue()
    assert all(text in shown for text in ("running the texts", "exporting", " left"))
    ((planned, part),) = jobs
    assert part.done == planned > 0
    model, tokenizer = loaded(reader), AutoTokenizer.from_pretrained(reader)
    gradients = "taylor" in words
    batches = calibration_batches(str(texts), model, tokenizer, labelled=gradients)
    options: dict[str, Any] = {"importance": "taylor"} if gradients else {}
    options |= {"compensate": True} if "--compensate" in words else {}
    prune_model(model, 0.5, level="unit", calibration=batches, **options)
    ids = batches[0]["input_ids"][:1, :9]
    found = loaded(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one of --sparsity, --units, and wishes (--speedup, --max-bytes, --max-loss)"),
        (("--sparsity", "0.5", "--speedup", "2"), "give one of --sparsity"),
        (("--sparsity", "half"), "--sparsity is a fraction, or for each part one"),
        (("--sparsity", "attention=0.5", "attention=0.6"), "names a part twice"),
        (("--sparsity", "attention=1.5"), "in [0, 1]; got 1.5"),
        (("--sparsity", "heads=0.5"), "names heads, but what is ranked here is"),
        (("--units", "nowhere.json"), "the file nowhere.json does not exist"),
        (("--max-bytes", "tiny"), "such as 25MB, 1.5GiB or 300000, got 'tiny'"),
        (("--speedup", "2", "--level", "weight"), "Use level='unit' (heads and neurons)"),
        (("--max-bytes", "9kB", "--level", "weight"), "or form='archive'"),
        (("--sparsity", "0.5", "--of", "flops"), "--of flops is for a global budget"),
        (("--sparsity", "0.5", "--times", "t.json"), "--times is for --budget global"),
        (("--sparsity", "0.5", "--importance", "taylor"), "--importance taylor needs texts"),
        (("--sparsity", "0.5", "--compensate", "mean"), "--compensate needs texts"),
        (("--speedup", "2", "--from-disk"), "--from-disk takes a --sparsity of all parts"),
        (("--sparsity", "0.5", "--calibration", "./nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_message(monkeypatch, capsys, reader, tmp_path, words, message):
    assert run(monkeypatch, "prune", reader, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("25MB", 25_000_000), ("1.5 GiB", 3 * 2**29), ("300000", 300_000), ("2k", 2000), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


def test_amounts_are_read():
    assert read_sparsity(["0.5"]) == 0.5
    found = read_sparsity(["attention=0.5", "feed_forward=1.0", "layers=2"])
    assert found == {"attention": 0.5, "feed_forward": 1.0, "layers": 2}
    assert isinstance(found, dict)
    assert [type(amount) for amount in found.values()] == [float, float, int]


@pytest.mark.parametrize("text", ["[", "[1]", "3"])
def test_a_file_without_units_is_refused(tmp_path, text):
    (tmp_path / "units.json").write_text(text)
    with pytest.raises(UsageError, match="holds no units"):
        read_units(tmp_path / "units.json")


def test_texts_count_for_a_model_that_was_trained_by_magnitude(
    monkeypatch, capsys, reader, texts, tmp_path
):
    model: Any = loaded(reader)
    patch_model(model, level="unit", importance="magnitude")
    unpatch_model(model).save_pretrained(reader)
    for name, words in (("by_weights", ()), ("by_texts", ("--calibration", texts))):
        words = ("--sparsity", "0.5", *words)
        assert run(monkeypatch, "prune", reader, tmp_path / name, *words) == 0
    tokens = torch.arange(9)[None] + 5
    with torch.no_grad():
        one, two = (loaded(tmp_path / n)(tokens).logits for n in ("by_weights", "by_texts"))
    assert not torch.equal(one, two)


def test_reap_takes_whole_experts_out_and_nothing_else(monkeypatch, capsys, texts, tmp_path):
    tokenizer = FAMILIES["byte_level"]()
    sizes: Any = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads: Any = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    config = MixtralConfig(vocab_size=len(tokenizer), **sizes, **heads)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    tokenizer.save_pretrained(tmp_path / "mixture")
    words = ("prune", tmp_path / "mixture", tmp_path / "small", "--sparsity", "0.5")
    words = (*words, "--importance", "reap")
    assert run(monkeypatch, *words) == 2
    assert "--importance reap needs texts" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--calibration", texts, "--length", 16, "--json") == 0
    removed = json.loads(capsys.readouterr().out)["pruning"]["blocks"]
    counted = {(block["part"], block["removed"], block["total"]) for block in removed}
    assert {("experts", 2, 4), ("attention", 0, 2)} <= counted, counted
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.num_local_experts == 2


def test_reap_of_a_model_without_experts_is_refused(monkeypatch, capsys, reader, texts, tmp_path):
    words = ("prune", reader, tmp_path / "small", "--sparsity", "0.5", "--importance", "reap")
    assert run(monkeypatch, *words, "--calibration", texts) == 2
    assert "experts" in capsys.readouterr().err
