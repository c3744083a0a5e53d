"""The processes that train together, as `torchrun` and `accelerate launch` announce them."""

from __future__ import annotations

import os


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Whether this is the process that writes the model."""
    return int(os.environ.get("RANK", 0)) == 0
