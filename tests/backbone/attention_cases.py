"""Attention as torch computes it, for what the kernels are held against."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.backbone.attention import GroupedAttention
from retrieval.backbone.packing import pack
from retrieval.backbone.rotary import rotate


def tables(positions: int, width: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(positions)[:, None] / 100.0 ** (torch.arange(0, width, 2) / width)
    return angles.cos(), angles.sin()


def attend_in_torch(
    qkv: Tensor,
    *,
    heads: int,
    lengths: list[int],
    key_lengths: list[int] | None,
    window: int | None,
    cosines: Tensor,
    sines: Tensor,
) -> Tensor:
    """By torch's attention, in float32; differentiable."""
    batch = pack([[1] * length for length in lengths], key_lengths)
    q, k, v = qkv.float().view(len(qkv), 3, heads, -1).unbind(1)
    table = [each[batch.positions][:, None] for each in (cosines, sines)]
    attention = GroupedAttention(batch, max_padding=0.0)
    return attention(rotate(q, *table), rotate(k, *table), v, window=window).flatten(1)


def offsets_of(lengths: list[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
