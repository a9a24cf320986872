"""Shards a model with FSDP2 on a single rank: all of its hooks run, and nothing is sent."""

from __future__ import annotations

from typing import Any

from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_td.patching import shard_by_rows

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def shard_on_one_rank(model: Any, device: str) -> None:
    """Shard a BERT or a Llama in place, layer by layer, patched or not.

    The process becomes the only one of a group, unless it is in one already.
    """
    if not distributed.is_initialized():
        groups: Any = distributed  # the checker does not know its stores
        distributed.init_process_group(
            _BACKENDS[device], store=groups.HashStore(), rank=0, world_size=1
        )
    mesh = init_device_mesh(device, (1,))
    by_rows = shard_by_rows(model)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, shard_placement_fn=by_rows)
    fully_shard(model, mesh=mesh, shard_placement_fn=by_rows)


def _layers(model: Any) -> nn.ModuleList:
    base = model.base_model
    return base.encoder.layer if hasattr(base, "encoder") else base.layers
