"""ONNX Runtime computes what PyTorch computes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from hf_td import compact_model
from hf_td.hub import export_model
from hf_td.hub.forms import onnx
from hf_td.hub.push.finished import check_finished
from tests.compaction.models import parameters_of, uneven_model
from tests.tiny import tiny_inputs, tiny_model

EXTRA = "the extra `onnx` is not installed"


def run_onnx(folder: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Return the output of ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason=EXTRA)
    session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {n: v.numpy() for n, v in inputs.items()})[0])


@pytest.fixture
def extra() -> None:
    for name in onnx.PACKAGES:
        pytest.importorskip(name, reason=EXTRA)


@pytest.mark.slow
@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("family", ["bert", "distilbert", "vit", "llama", "gpt2"])
def test_compact_models_run_at_any_batch_and_length(family, tmp_path):
    model = compact_model(uneven_model(family))
    done = export_model(model, tmp_path / "x", form="onnx")
    assert (done.form, done.ways) == ("onnx", ("onnxruntime",))
    assert done.parameters == model.num_parameters()
    for batch, length in ((4, 3), (1, 20)):
        inputs = tiny_inputs(model, batch, length)
        if "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["attention_mask"][0, -1] = 0
        with torch.no_grad():
            expected = model(**inputs)[0]
        got = run_onnx(tmp_path / "x", **inputs)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("extra")
def test_the_form_onnx_takes_dead_units_out_first(tmp_path):
    model = uneven_model("bert")
    before = parameters_of(model)
    done = export_model(model, tmp_path / "x", form="onnx", metrics={"accuracy": 0.5})
    assert (done.form, done.ways) == ("onnx", ("onnxruntime",))
    assert done.parameters < model.num_parameters()
    names = {"model.onnx", "config.json", "metrics.json", "README.md"}
    assert {path.name for path in done.folder.iterdir()} >= names
    assert "InferenceSession" in (done.folder / "README.md").read_text()
    check_finished(done.folder)
    assert all(p is before[name] for name, p in parameters_of(model).items())
    dense = export_model(tiny_model("bert"), tmp_path / "dense", form="onnx", check=False)
    assert dense.ways == ()
    sizes = [(folder / "model.onnx").stat().st_size for folder in (done.folder, dense.folder)]
    assert sizes[0] < sizes[1]


@pytest.mark.slow
@pytest.mark.usefixtures("extra")
def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model: Any = tiny_model("vit").train()
    write = onnx.Onnx.write

    def spoilt(self: onnx.Onnx, shell: Any, *arguments: Any) -> None:
        write(self, shell, *arguments)
        model.classifier.bias.data += 1

    monkeypatch.setattr(onnx.Onnx, "write", spoilt)
    with pytest.raises(RuntimeError, match=r"differs from PyTorch at batch and length .* by "):
        export_model(model, tmp_path / "x", form="onnx")
    assert list(tmp_path.iterdir()) == []
    assert model.training


@pytest.mark.usefixtures("extra")
def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something already"):
        export_model(uneven_model("vit"), tmp_path, form="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    needs = r"onnxruntime is not installed. .* pip install '\.\[onnx\]'"
    with pytest.raises(ImportError, match=needs):
        export_model(uneven_model("vit"), tmp_path / "x", form="onnx")
    assert list(tmp_path.iterdir()) == []
