"""SentenceTransformer loads what was pruned, with all its modules and without hf_td."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hf_td import cli, export_model, prune_model, prune_to
from hf_td.hub import prune_folder
from tests.friends.helpers import friend, sentences, tiny_encoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]

# Loads, saves, loads again, and writes both embeddings, as on a machine without hf_td.
ELSEWHERE = """
import sys
sys.modules["hf_td"] = None
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
folder, trust, again, outputs, *texts = sys.argv[1:]
how = {"device": "cpu", "trust_remote_code": trust == "trust"}
first = SentenceTransformer(folder, **how)
first.save_pretrained(again)
both = {"first": first, "again": SentenceTransformer(again, **how)}
found = {name: model.encode(texts, convert_to_tensor=True) for name, model in both.items()}
save_file(found, outputs)
"""
TEXTS = sentences(4, 3)


def with_layers(folder: Path) -> Any:
    """A model of a tiny encoder, its mean, a layer with weights of its own, and a norm."""
    library = friend("sentence_transformers")
    modules = friend("sentence_transformers.sentence_transformer.modules")
    torch.manual_seed(0)
    encoder = modules.Transformer(tiny_encoder(folder / "encoder"))
    pooling = modules.Pooling(encoder.get_embedding_dimension())
    layers = [encoder, pooling, modules.Dense(32, 8), modules.Normalize()]
    model = library.SentenceTransformer(modules=layers, device="cpu", prompts={"query": "w9 "})
    model.save_pretrained(str(folder / "whole"))
    return model.eval()


def embedded(model: Any) -> torch.Tensor:
    return model.encode(TEXTS, convert_to_tensor=True)


def embedded_elsewhere(folder: Path, *, trust: bool) -> dict[str, torch.Tensor]:
    outputs, again = folder.parent / "embeddings.safetensors", folder.parent / "again"
    words = [str(folder), "trust" if trust else "plain", str(again), str(outputs), *TEXTS]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder.parent / "code")},
    )
    assert done.returncode == 0, done.stderr
    return load_file(outputs)


@pytest.mark.parametrize(("form", "keep"), [("auto", False), ("stock", True)])
def test_an_export_embeds_as_the_masked_model_without_hf_td(form, keep, tmp_path):
    model = with_layers(tmp_path)
    prune_model(model[0].auto_model, 0.5, level="unit")
    expected = embedded(model)
    out = tmp_path / "small"
    export = export_model(model, out, form=form, keep_heads_stock=keep, multiple_of=1)
    assert export.form == ("stock" if keep else "compact")
    assert export.ways[-1] == "sentence_transformers"
    assert export.parameters < model[0].auto_model.num_parameters()
    got = embedded_elsewhere(out, trust=not keep)
    assert_close(got["first"], expected)
    assert_close(got["again"], got["first"], rtol=0, atol=0)
    assert (tmp_path / "again/modeling_hf_td.py").is_file() is not keep
    card = (out / "README.md").read_text()
    call = "SentenceTransformer(model_id" + ("" if keep else ", trust_remote_code=True") + ")"
    assert f"model = {call}\n" in card
    assert "library_name: sentence-transformers" in card
    assert "pipeline_tag: sentence-similarity" in card


def test_the_command_line_keeps_the_modules(monkeypatch, tmp_path, capsys):
    model = with_layers(tmp_path)
    out = tmp_path / "small"
    words = ["prune", tmp_path / "whole", out, "--sparsity", "0.5", "--level", "unit"]
    for more in ([], ["--overwrite"]):
        monkeypatch.setattr("sys.argv", ["hf-td", *map(str, words), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, capsys.readouterr()
    prune_model(model[0].auto_model, 0.5, level="unit")
    again = friend("sentence_transformers").SentenceTransformer(str(out), device="cpu")
    assert_close(embedded(again), embedded(model))
    assert again.prompts["query"] == "w9 "
    assert again[0].auto_model.num_parameters() < model[0].auto_model.num_parameters()


def test_pruning_on_disk_keeps_the_modules(tmp_path):
    model = with_layers(tmp_path)
    prune_folder(tmp_path / "whole", tmp_path / "small", 0.5, level="unit")
    prune_model(model[0].auto_model, 0.5, level="unit")
    again = friend("sentence_transformers").SentenceTransformer(str(tmp_path / "small"))
    assert_close(embedded(again.to("cpu")), embedded(model))
    assert "SentenceTransformer(model_id" in (tmp_path / "small/README.md").read_text()


def test_the_modules_count_in_a_wished_size(tmp_path):
    encoder = with_layers(tmp_path)[0].auto_model
    whole = tmp_path / "whole"
    (whole / "2_Dense/more.bin").write_bytes(bytes(100_000))
    export = export_model(encoder, tmp_path / "all", modules_from=whole, check=False)
    wanted = export.bytes - 8_000
    report = prune_to(encoder, max_bytes=wanted, modules_from=whole, multiple_of=1)
    assert report.wishes[0].got > 100_000
    assert report.wishes[0].met
