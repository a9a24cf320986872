"""Runs a function in several processes, with an end to the wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn


def run_in_processes(
    work: Callable[..., None], processes: int, folder: Path, *args: Any, seconds: float = 900
) -> None:
    """Call `work(rank, folder, *args)` in processes of one group, one for each rank.

    Raises:
        TimeoutError: they have not ended in time; they are killed.
    """
    running: Any = spawn(
        _within_group, (work, processes, folder, args), nprocs=processes, join=False
    )
    end = time.monotonic() + seconds
    while not running.join(timeout=1):  # raises what a process raised
        if time.monotonic() > end:
            for process in running.processes:
                process.kill()
            raise TimeoutError(f"{work.__name__} has not ended after {seconds} s")


def _within_group(
    rank: int, work: Callable[..., None], processes: int, folder: Path, args: Any
) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store{processes}{work.__name__}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    work(rank, folder, *args)
    distributed.destroy_process_group()
