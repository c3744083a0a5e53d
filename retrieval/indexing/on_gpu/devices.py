"""Which device is meant, and how tensors get there and queries are laid out on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import ConfigError

_COPIED_AT_ONCE = 1 << 26
"""Bytes: files that are mapped go to the device by parts, and are never in memory as a whole."""

Device = str | torch.device


def find_device(device: Device | None = None) -> torch.device:
    """The device of this name; None is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or has no GPU here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device is {device!r}, expected "cuda", "cuda:1" or "cpu"') from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'device is "{found}", but torch {torch.__version__} finds no GPU: "cpu"')
    return found


def on_device(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any], device: torch.device) -> Tensor:
    """Arrays, one after the other along their first axis, as one tensor of this NumPy dtype."""
    rows = sum(map(len, parts))
    like = torch.from_numpy(np.empty((0, *parts[0].shape[1:]), dtype))
    joined = torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=device)
    at = 0
    for part in parts:
        step = max(1, _COPIED_AT_ONCE // max(1, part[:1].nbytes))
        for first in range(0, len(part), step):
            # A copy: torch warns of arrays that are mapped for reading only.
            piece = torch.from_numpy(np.array(part[first : first + step], dtype, order="C"))
            joined[at : at + len(piece)].copy_(piece)
            at += len(piece)
    return joined


def stack_queries(queries: Sequence[NDArray[np.floating]], device: torch.device) -> Tensor:
    """(B, M, D) float32 of B arrays (M_b, D), filled up with zeros to the longest.

    A token of zeros scores 0 with every document: in a sum it changes nothing.
    """
    longest = max(map(len, queries))
    stacked = np.zeros((len(queries), longest, queries[0].shape[1]), np.float32)
    for row, query in zip(stacked, queries):
        row[: len(query)] = query
    return torch.from_numpy(stacked).to(device)
