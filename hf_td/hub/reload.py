"""Run by path in a fresh process: loads an exported folder and writes what the model computes.

Arguments: the folder, the code that loads it, `with_hf_td` or `without_hf_td`, the inputs and the
place for the outputs, both safetensors files. Inputs that are no tensors are JSON in the metadata.
With `without_hf_td` the package hf_td cannot be imported, as on a machine that does not have it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

# The entry of the metadata that has the inputs which are no tensors.
OTHERS = "others"
# Settings of generation that replace the model's own.
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "max_new_tokens": 8,
}


def compute(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first output of a model, and the tokens of a model that generates."""
    computed = {"output": model(**inputs)[0]}
    if model.can_generate():
        computed["generated"] = model.generate(**_prompt(inputs), **GREEDY)
    return computed


def _prompt(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors to generate from. Settings such as `use_cache` are those of a forward."""
    tensors = {name: value for name, value in inputs.items() if hasattr(value, "shape")}
    return {n: v for n, v in tensors.items() if not n.startswith("decoder_") and n != "labels"}


def main(folder: str, code: str, hf_td: str, inputs: str, outputs: str) -> None:
    """Load, compute, and write the outputs."""
    if hf_td == "without_hf_td":
        sys.modules["hf_td"] = None  # type: ignore[assignment]
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    names: dict[str, Any] = {"model_id": folder}
    exec(code, names)
    with safe_open(inputs, "pt") as file:
        others = json.loads(file.metadata()[OTHERS])
    torch.manual_seed(0)  # as `hf_td.anatomy.seeded`, for models that draw in eval mode too
    with torch.no_grad():
        computed = compute(names["model"].eval(), {**load_file(inputs), **others})
    save_file({name: tensor.contiguous() for name, tensor in computed.items()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
