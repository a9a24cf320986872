"""Run by path in a fresh process: loads an exported folder and writes what the model computes.

Arguments: the folder, the `AutoModel...` class, the way (`stock`, `hf_td`, `remote_code` or
`archive`), the inputs and the place for the outputs, both safetensors files. In the ways `stock`
and `remote_code` the package hf_td cannot be imported, as on a machine that does not have it.
"""

from __future__ import annotations

import sys
from typing import Any

# Whatever the model's own settings of generation are.
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "max_new_tokens": 8,
}


def main(folder: str, auto_class: str, way: str, inputs: str, outputs: str) -> None:
    """Load, compute, and write the outputs."""
    if way in ("hf_td", "archive"):
        import hf_td  # noqa: F401 - registers the loader
    else:
        sys.modules["hf_td"] = None  # type: ignore[assignment]
    import torch
    from safetensors.torch import load_file, save_file

    model = _load(folder, auto_class, way)
    arguments: dict[str, Any] = dict(load_file(inputs))
    torch.manual_seed(0)  # as `hf_td.anatomy.seeded`, for models that draw in eval mode too
    with torch.no_grad():
        computed = {"output": model.eval()(**arguments)[0]}
        if model.can_generate():
            ids = {k: v for k, v in arguments.items() if not k.startswith("decoder_")}
            computed["generated"] = model.generate(**ids, **GREEDY)
    save_file({name: tensor.contiguous() for name, tensor in computed.items()}, outputs)


def _load(folder: str, auto_class: str, way: str) -> Any:
    if way == "archive":
        from hf_td.hub import load_archived_model

        return load_archived_model(folder, limit=sys.maxsize)  # it was in memory just now
    import transformers

    return getattr(transformers, auto_class).from_pretrained(
        folder, trust_remote_code=way == "remote_code", local_files_only=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
