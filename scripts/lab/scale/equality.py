"""Trains a case in one process, or in several with shards, and compares what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from hf_td import anneal
from hf_td.files import replacing
from hf_td.patching import find_patch, shard_by_rows
from hf_td.patching.layers import kept
from hf_td.training.distillation.losses import logits_loss
from lab.scale.cases import CASES, VOCABULARY, Case, student_of, teacher_of

UPDATES = 12
SEQUENCES, TOKENS = 16, 16
LEARNING_RATE, MOMENTUM = 0.05, 0.9
_LOSSES, _MASK, _WEIGHT = "losses", "mask/", "weight/"


def batch_of(update: int) -> Tensor:
    """Return the whole batch of an update, `(SEQUENCES, TOKENS)`."""
    generator = torch.Generator().manual_seed(1000 + update)
    return torch.randint(VOCABULARY, (SEQUENCES, TOKENS), generator=generator)


def shard(model: nn.Module, **options: Any) -> None:
    """Shard each block of a model, and then the rest, by `fully_shard`."""
    by_rows = shard_by_rows(model)
    stack = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for block in stack:
        fully_shard(block, shard_placement_fn=by_rows, **options)
    fully_shard(model, shard_placement_fn=by_rows, **options)


def train(case: Case, rank: int = 0, processes: int = 1) -> dict[str, Tensor]:
    """Return the losses, masks and final weights of a training, gathered.

    Args:
        case: what is trained.
        rank: the number of this process.
        processes: their number. With more than one the models are sharded.
    """
    student, teacher = student_of(case), teacher_of(case)
    if case.checkpointing:
        call: Any = student
        call.activation_checkpointing_enable({"use_reentrant": False})
    if processes > 1:
        shard(student, reshard_after_forward=case.reshard)
        if teacher is not None and case.teacher == "sharded":
            shard(teacher)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)
    found: dict[str, Tensor] = {}
    losses = []
    for update in range(UPDATES):
        anneal(student.train(), update / UPDATES, update)
        found |= {f"{_MASK}{update}/{name}": mask for name, mask in _masks(student)}
        micro_batches = batch_of(update).chunk(case.micro_batches)
        parts = [_backward(student, teacher, ids.chunk(processes)[rank]) for ids in micro_batches]
        losses.append(torch.stack(parts).sum())
        optimizer.step()
        optimizer.zero_grad()
    found[_LOSSES] = _mean_over_processes(torch.stack(losses), processes)
    return found | {
        f"{_WEIGHT}{name}": _whole(p.detach()) for name, p in student.named_parameters()
    }


def _backward(student: Any, teacher: Any, ids: Tensor) -> Tensor:
    """Add the gradient of a part of the batch; return its part of the mean loss of the process."""
    outputs = student(input_ids=ids, labels=ids)
    loss = outputs.loss
    if teacher is not None:
        with torch.no_grad():
            target = teacher(input_ids=ids).logits
        loss = 0.5 * loss + 0.5 * logits_loss(outputs.logits, target, temperature=2.0)
    loss = loss * len(ids) / SEQUENCES * _processes()
    loss.backward()  # FSDP takes the mean over the processes
    return loss.detach()


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _mean_over_processes(numbers: Tensor, processes: int) -> Tensor:
    if processes > 1:
        distributed.all_reduce(numbers)
    return numbers / processes


def _masks(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the mask of every site in this update, gathered, one byte for each weight."""
    patch = find_patch(model)
    assert patch is not None
    for site in patch.sites:
        mask, weight = kept(site.layer).to(torch.uint8), site.layer.weight
        if isinstance(weight, DTensor) and mask.dim() == weight.dim():
            mask = DTensor.from_local(
                mask.expand(weight.to_local().shape).contiguous(),
                weight.device_mesh,
                weight.placements,
                shape=weight.shape,
                stride=weight.stride(),
            )
        yield site.name, _whole(mask)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.clone().contiguous()


def train_in_processes(cases: Sequence[Case], processes: int) -> Iterator[dict[str, Tensor]]:
    """Yield what `train` returns for each case in several processes on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        names = [case.name for case in cases]
        running = spawn(_work, (processes, names, folder), nprocs=processes, join=False)
        assert running is not None
        for number in range(len(cases)):
            path, ended = Path(folder) / f"{number}.safetensors", False
            while not ended and not path.exists():
                ended = running.join(timeout=1)  # raises what a process raised
            yield load_file(path)
        while not running.join():
            pass


def _work(rank: int, processes: int, names: Sequence[str], folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    by_name = {case.name: case for case in CASES}
    for number, name in enumerate(names):
        found = train(by_name[name], rank, processes)
        if rank == 0:
            with replacing(Path(folder) / f"{number}.safetensors") as draft:
                save_file(found, draft)
    distributed.destroy_process_group()


def compare(one: dict[str, Tensor], several: dict[str, Tensor]) -> dict[str, Any]:
    """Return how far two trainings of one case differ.

    Returns:
        The number of weights in all masks, of dropped ones, and of those that differ; the largest
        difference of a loss, relative, and of a final weight.
    """
    if one.keys() != several.keys():
        raise ValueError(f"trainings of two cases: {sorted(one.keys() ^ several.keys())}")
    masks = [name for name in one if name.startswith(_MASK)]
    weights = [name for name in one if name.startswith(_WEIGHT)]
    losses = one[_LOSSES], several[_LOSSES]
    return {
        "masks": len(masks),
        "mask_elements": sum(one[name].numel() for name in masks),
        "dropped": sum(int((one[name] == 0).sum()) for name in masks),
        "differing": sum(int((one[name] != several[name]).sum()) for name in masks),
        "loss_first": float(losses[0][0]),
        "loss_last": float(losses[0][-1]),
        "loss_difference": float(((losses[0] - losses[1]) / losses[0]).abs().max()),
        "weight_largest": max(float(one[name].abs().max()) for name in weights),
        "weight_difference": max(float((one[n] - several[n]).abs().max()) for n in weights),
    }
