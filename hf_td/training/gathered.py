"""Saves a model that FSDP2 has sharded as one that a single process loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hf_td.files import whole_folder
from hf_td.patching.distributed import process_number, sum_over_processes


def save_gathered(model: nn.Module, folder: str | Path, *, overwrite: bool = False) -> bool:
    """Write the whole model to a folder, by the first process.

    A process has no whole weights of a sharded model, so it can neither prune nor export it. Load
    the folder by `from_pretrained` in one process, and prune and export that. No other process has
    to wait: pruning and exporting an ordinary model is not collective.

    Collective: every process must call it. All return when the folder is complete.

    Args:
        model: a `PreTrainedModel`, sharded or not, patched or not. Of a model with adapters the
            adapters are written.
        folder: the folder to write, as a whole or not at all. Measured activations are written too.
        overwrite: replace a folder that holds something.

    Returns:
        True in the first process.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        RuntimeError: the first process could not write; raised in the other processes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    is_first = process_number() == 0
    error: Exception | None = None
    if is_first:
        try:
            _write(model, state, Path(folder), overwrite=overwrite)
        except Exception as raised:
            error = raised
    # Also the end of the wait: no process goes on to read a folder that is not there.
    device = next(model.parameters()).device
    failures = sum_over_processes([torch.tensor(int(error is not None), device=device)])[0]
    if error is not None:
        raise error
    if failures:
        raise RuntimeError(f"The first process could not write {folder}. Its error says why")
    return is_first


def _write(model: Any, state: dict[str, Any], folder: Path, *, overwrite: bool) -> None:
    with whole_folder(folder, overwrite=overwrite) as temporary:
        model.save_pretrained(temporary, state_dict=state)
