"""Several training processes together, as `torchrun` and `accelerate launch` announce them."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Whether this is the process that writes the model."""
    return int(os.environ.get("RANK", 0)) == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` holds in one of the processes; all of them must ask.

    They ask by way of the CPU: no GPU is waited for.
    """
    if not _is_distributed():
        return flag
    shared = torch.tensor([int(flag)])
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=_cpu_group())
    return bool(shared.item())


def wait_for_all() -> None:
    """Return when every process is here."""
    any_process(False)


def leave_group() -> None:
    """End the processes' communication when every process is here; the last thing that each does.

    Threads of a group that is open when Python ends can abort the process.
    """
    if _is_distributed():
        wait_for_all()
        _cpu_group.cache_clear()
        dist.destroy_process_group()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@functools.cache
def _cpu_group() -> Any:
    return dist.new_group(backend="gloo")
