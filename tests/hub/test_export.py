"""Exports compute the same, and are written as a whole; the model is left alone."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedTokenizerFast,
)

from hf_td import compact_model, patch_model, prune_model, read_anatomy
from hf_td.anatomy import given
from hf_td.compaction import layout_of_model
from hf_td.hub import export
from hf_td.hub.export import export_model
from hf_td.hub.forms.compact import Compact
from hf_td.patching.patch import find_patch
from tests.compaction.models import (
    assert_identical,
    assert_same,
    computed,
    every_family,
    masked_model,
    neurons_pruned,
    parameters_of,
    small_model,
    uneven_model,
)
from tests.tiny import tiny_model, tiny_tokenizer

# The families whose configs have a field for the size of a head.
STOCK_HEADS = {"llama", "t5", "t5_gated", "vit"}


def load(model: Any, folder: Path) -> Any:
    return type(model).from_pretrained(folder, local_files_only=True)


def is_stock(folder: Path) -> bool:
    return "quantization_config" not in json.loads((folder / "config.json").read_text())


@every_family
def test_auto_is_stock_where_only_neurons_are_gone(family, tmp_path):
    model = neurons_pruned(family)
    done = export_model(model, tmp_path / "x", check=False)
    assert (done.form, done.reason) == ("stock", "a stock config expresses every width")
    assert is_stock(done.folder)
    assert done.parameters < model.num_parameters()
    assert_same(load(model, done.folder), computed(model))


@every_family
def test_auto_is_stock_or_compact_where_heads_are_gone(family, tmp_path):
    model = tiny_model(family)
    prune_model(model, 0.5, attention_level="unit", feed_forward_level="none")
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == ("stock" if family in STOCK_HEADS else "compact")
    if family not in STOCK_HEADS:
        assert "no stock config expresses the widths of" in done.reason
    assert is_stock(done.folder) == (done.form == "stock")
    assert_same(load(model, done.folder), computed(model))


@every_family
def test_auto_is_compact_where_widths_are_uneven(family, tmp_path):
    model = uneven_model(family)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.form == "compact"
    assert "no stock config expresses the widths of" in done.reason
    assert_same(load(model, done.folder), computed(model))


@every_family
@pytest.mark.parametrize("form", ["compact", "padded"])
def test_every_model_has_these_forms(family, form, tmp_path):
    model = uneven_model(family)
    done = export_model(model, tmp_path / "x", form=form, check=False)
    assert (done.form, done.reason) == (form, "it was asked for")
    assert is_stock(done.folder) == (form == "padded")
    assert_same(load(model, done.folder), computed(model))


@every_family
def test_a_model_with_nothing_left_is_exported(family, tmp_path):
    model = masked_model(family, 1)
    done = export_model(model, tmp_path / "x", check=False)
    assert_same(load(model, done.folder), computed(model))


@every_family
@pytest.mark.parametrize("sparsity", [0.5, 0.7, 1])
def test_a_model_that_is_compact_already_is_exported(family, sparsity, tmp_path):
    model = small_model(family, sparsity)
    done = export_model(model, tmp_path / "x", check=False)
    assert done.parameters == model.num_parameters()
    assert_same(load(model, done.folder), computed(model))


def test_a_compact_model_of_even_widths_is_stock_again(tmp_path):
    done = export_model(small_model("vit"), tmp_path / "x", check=False)
    assert done.form == "stock"


@pytest.mark.parametrize("form", ["stock", "padded"])
def test_units_that_are_gone_for_good_cannot_be_padded(form, tmp_path):
    model = compact_model(uneven_model("bert"))
    with pytest.raises(ValueError, match="form='compact'"):
        export_model(model, tmp_path / "x", form=form)
    model = small_model("vit", 1)
    with pytest.raises(ValueError, match="form='compact'"):
        export_model(model, tmp_path / "x", form=form)
    assert not (tmp_path / "x").exists()


def test_stock_says_what_it_cannot_express(tmp_path):
    message = r"cannot express the widths of bert.encoder.layer.0.attention, .*"
    with pytest.raises(ValueError, match=f"{message}keep_heads_stock=True.*form='padded'"):
        export_model(masked_model("bert"), tmp_path / "x", form="stock")
    with pytest.raises(ValueError, match=f"{message}pass form='padded'"):
        export_model(uneven_model("bert"), tmp_path / "x", form="stock")


def test_stock_may_keep_all_heads(tmp_path):
    model = masked_model("bert")
    done = export_model(model, tmp_path / "x", form="stock", keep_heads_stock=True, check=False)
    assert done.reason == "it was asked for, with all heads kept"
    found = load(model, done.folder)
    assert found.config.num_attention_heads == 4
    assert found.config.intermediate_size == 32
    assert_same(found, computed(model))


def test_auto_keeps_all_heads_where_it_is_asked_to(tmp_path):
    model = masked_model("bert")
    done = export_model(model, tmp_path / "x", keep_heads_stock=True, check=False)
    assert (done.form, done.notes) == ("stock", ())
    (note,) = export_model(model, tmp_path / "y", check=False).notes
    assert "With keep_heads_stock=True" in note
    assert export_model(uneven_model("bert"), tmp_path / "z", check=False).notes == ()


@pytest.mark.parametrize(
    ("level", "sparsity", "form", "words"),
    [
        ("unit", 0.5, "compact", None),
        ("unit", 0.5, "padded", None),  # pads up to half of the neurons
        ("unit", 0, "auto", "no head, neuron or weight of it is pruned"),
        ("weight", 0.5, "auto", "(level='unit') are taken out, and the form 'archive'"),
        ("weight", 0.5, "archive", None),
    ],
)
def test_an_export_that_is_no_smaller_says_so(level, sparsity, form, words, tmp_path):
    model = tiny_model("llama")
    prune_model(model, sparsity, level=level)
    done = export_model(model, tmp_path / "x", form=form, check=False)
    assert [words in note for note in done.notes] == ([] if words is None else [True])
    card = " ".join((done.folder / "README.md").read_text().split())
    assert all(note in card for note in done.notes)


def test_an_unknown_form_is_refused(tmp_path):
    form: Any = "nonsense"
    with pytest.raises(ValueError, match=r"form must be one of .* got 'nonsense'"):
        export_model(masked_model("bert"), tmp_path / "x", form=form)


def test_widths_are_rounded_up(tmp_path):
    model = tiny_model("bert")
    prune_model(model, 0.7, feed_forward_level="unit", attention_level="none")
    for multiple, width in ((1, 20), (8, 24), (48, 48)):
        folder = tmp_path / str(multiple)
        export_model(model, folder, multiple_of=multiple, check=False)
        assert load(model, folder).config.intermediate_size == width


def test_files_get_smaller(tmp_path):
    model = masked_model("gpt2", 0.75)
    model.save_pretrained(tmp_path / "masked")
    done = export_model(model, tmp_path / "x", check=False)
    weights = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("masked", "x")]
    assert weights[1] < weights[0] - 4 * (model.num_parameters() - done.parameters) * 0.9
    assert done.bytes == sum(path.stat().st_size for path in done.folder.rglob("*"))


@every_family
@pytest.mark.parametrize("form", ["auto", "compact", "padded"])
def test_the_model_is_left_as_it_was(family, form, tmp_path):
    model = masked_model(family).train()
    twin, parameters = copy.deepcopy(model), parameters_of(model)
    export_model(model, tmp_path / "x", form=form, check=False)
    assert all(p is parameters[name] for name, p in parameters_of(model).items())
    assert model.config.to_dict() == twin.config.to_dict()
    assert layout_of_model(model) is None
    assert model.training
    assert str(model) == str(twin)
    assert_identical(model.eval(), twin.eval())


def test_a_patched_model_stays_patched(tmp_path):
    model = tiny_model("bert")
    patch_model(model, level="unit")
    prune_model(model, 0.5)
    expected = computed(model)
    done = export_model(model, tmp_path / "x", check=False)
    assert find_patch(model) is not None
    found = load(tiny_model("bert"), done.folder)
    assert find_patch(found) is None
    assert_same(found, expected)


def test_a_model_in_bfloat16_stays_in_it(tmp_path):
    model: Any = masked_model("llama")
    model.to(torch.bfloat16)
    done = export_model(model, tmp_path / "x", check=False)
    assert load(model, done.folder).dtype == torch.bfloat16


def test_tokenizer_and_metrics_lie_beside_the_model(tmp_path):
    folder, metrics = tmp_path / "x", {"accuracy": 0.5, "sparsity": {"heads": 0.5}}
    export_model(
        masked_model("bert"),
        folder,
        processing_class=tiny_tokenizer(),
        metrics=metrics,
        check=False,
    )
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    found = PreTrainedTokenizerFast.from_pretrained(folder)
    assert found("word")["input_ids"] == [2]


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(0.5), np.float32(0.5)])
def test_metrics_that_are_no_json_are_refused(value, tmp_path):
    with pytest.raises(ValueError, match=r"metrics cannot be written as JSON: O.*Convert tensors"):
        export_model(masked_model("bert"), tmp_path / "x", metrics={"loss": value}, check=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["compact", "padded", "archive"])
def test_heads_are_kept_only_in_forms_that_can(form, tmp_path):
    with pytest.raises(ValueError, match=f"no effect on the form '{form}'.*auto and stock"):
        export_model(
            masked_model("bert"), tmp_path / "x", form=form, keep_heads_stock=True, check=False
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, -8])
def test_a_wrong_multiple_is_refused(number, tmp_path):
    with pytest.raises(ValueError, match="multiple_of is a positive number"):
        export_model(masked_model("bert"), tmp_path / "x", multiple_of=number, check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(export, "anatomy_of", lambda *_: pytest.fail("work was done"))
    with pytest.raises(FileExistsError, match="holds something already"):
        export_model(masked_model("bert"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reading_that_is_given_is_not_made_again(tmp_path, monkeypatch):
    model = uneven_model("bert")
    anatomy = read_anatomy(model)
    read = export_model(model, tmp_path / "read", check=False)
    monkeypatch.setattr(given, "read_anatomy", lambda *_: pytest.fail("it was read again"))
    done = export_model(model, tmp_path / "given", anatomy=anatomy, check=False)
    assert replace(done, folder=read.folder, bytes=read.bytes) == read
    weights = [(each.folder / "model.safetensors").read_bytes() for each in (read, done)]
    assert weights[0] == weights[1]


def test_a_reading_of_another_model_is_refused(tmp_path):
    anatomy = read_anatomy(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="the anatomy does not fit Bert"):
        export_model(masked_model("bert"), tmp_path / "x", anatomy=anatomy)
    assert list(tmp_path.iterdir()) == []


def test_an_old_export_is_replaced_when_asked(tmp_path):
    model = masked_model("bert")
    export_model(model, tmp_path / "x", metrics={}, check=False)
    export_model(model, tmp_path / "x", overwrite=True, check=False)
    assert not (tmp_path / "x/metrics.json").exists()


@pytest.mark.parametrize("old", [True, False])
def test_an_error_while_writing_leaves_the_old_export_or_none(old, tmp_path, monkeypatch):
    model, folder = masked_model("bert"), tmp_path / "x"
    if old:
        export_model(model, folder, metrics={"old": 1}, check=False)
    write = Compact.write

    def fail(*arguments: Any) -> None:
        write(*arguments)
        raise OSError("disk full")

    monkeypatch.setattr(Compact, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(model, folder, overwrite=True, check=False)
    assert [path.name for path in tmp_path.iterdir()] == (["x"] if old else [])
    if old:
        assert json.loads((folder / "metrics.json").read_text()) == {"old": 1}
        assert_same(load(model, folder), computed(model))


def test_a_killed_export_leaves_the_old_one(tmp_path):
    model, folder = masked_model("bert"), tmp_path / "x"
    export_model(model, folder, check=False)
    model.save_pretrained(tmp_path / "masked")
    code = """
        import os, signal, sys
        from transformers import AutoModelForSequenceClassification as A
        from hf_td.hub import export_model
        from hf_td.hub.forms.compact import Compact
        write = Compact.write
        def killed(*arguments):
            write(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        Compact.write = killed
        export_model(A.from_pretrained(sys.argv[1]), sys.argv[2], overwrite=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "masked", folder]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert_same(load(model, folder), computed(model))
    assert len(list(tmp_path.iterdir())) == 3  # its draft is there
    export_model(model, folder, overwrite=True, check=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masked", "x"]
