"""Softmax attention within the sequences of a packed stream, in plain torch, on any device.

T tokens of all sequences, h heads, d width of a head, n blocks, B tokens of a block (the window)
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.backbone.packing import PackedBatch, to_device


class GroupedAttention:
    """Attention through torch's scaled_dot_product_attention; differentiable.

    Global layers take runs of sequences of nearly one length together; local layers take blocks of
    the stream with their two neighbours, so that they cost tokens x window.
    """

    def __init__(self, batch: PackedBatch, *, max_padding: float) -> None:
        """Prepare what all layers share.

        Args:
            batch: sequences in any order; sorted by length they make the fewest groups.
            max_padding: how much longer than its shortest sequence a group may be padded to; 0.1
                is ten per cent, 0 groups equal lengths only.
        """
        self._batch = batch
        self._groups = [_Group(batch, *each) for each in _runs(batch, max_padding)]
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, dropout: float = 0.0
    ) -> Tensor:
        """Attend.

        Args:
            q: (T, h, d), rotated.
            k: (T, h, d), rotated.
            v: (T, h, d).
            window: keys with |i - j| <= window are seen; None for all.
            dropout: probability of dropping an attention weight.

        Returns:
            (T, h, d); zeros for a token that may attend to none.
        """
        if window is None or self._batch.longest <= window + 1:
            return self._global(q, k, v, dropout)
        return self._local(q, k, v, window, dropout)

    def _global(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        # Split and not sliced: a slice's gradient is a tensor of zeros as large as the whole.
        sizes = [group.tokens for group in self._groups]
        parts = zip(self._groups, *(torch.split(each, sizes) for each in (q, k, v)), strict=True)
        return torch.cat([group.attend(*each, dropout=dropout) for group, *each in parts])

    def _local(self, q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float) -> Tensor:
        tokens = len(q)
        blocks = -(-tokens // window)
        filled = torch.cat([q, q.new_zeros(blocks * window - tokens, *q.shape[1:])])
        out = F.scaled_dot_product_attention(
            filled.view(blocks, window, *q.shape[1:]).transpose(1, 2),
            _with_neighbours(k, window),
            _with_neighbours(v, window),
            attn_mask=self._local_mask(window, blocks, q.dtype),
            dropout_p=dropout,
        )
        return out.transpose(1, 2).flatten(0, 1)[:tokens]

    def _local_mask(self, window: int, blocks: int, dtype: torch.dtype) -> Tensor:
        """(n, 1, B, 3 B) of 0 or -inf, which is added to the scores of every head and layer."""
        key = (window, dtype)
        if key not in self._masks:
            batch = self._batch
            fill = blocks * window - len(batch.ids)
            # Filled places are a sequence of their own, so that no row is without a key.
            queries = F.pad(batch.sequence_of, (0, fill), value=-1)
            keys = batch.sequence_of
            if batch.is_key is not None:
                keys = keys.masked_fill(to_device(~batch.is_key, keys.device), -2)
            keys = F.pad(keys, (window, window + fill), value=-1)
            keys_nB = keys.unfold(0, 3 * window, window)
            i = torch.arange(window, device=keys.device)
            j = torch.arange(3 * window, device=keys.device) - window
            near = (i[:, None] - j[None, :]).abs() <= window
            same = queries.view(blocks, window, 1) == keys_nB[:, None, :]
            mask = torch.zeros(same.shape, dtype=dtype, device=keys.device)
            self._masks[key] = mask.masked_fill_(~(same & near), -torch.inf)[:, None]
        return self._masks[key]


class _Group:
    """Neighbouring sequences that global layers take together, padded to one length if need be."""

    def __init__(self, batch: PackedBatch, first: int, last: int) -> None:
        lengths = batch.lengths[first:last]
        device = batch.ids.device
        self._shape = (len(lengths), int(lengths.max()))
        self.tokens = int(lengths.sum())
        positions = np.arange(self._shape[1])
        is_real = positions < lengths[:, None]
        self._rows: Tensor | None = None
        if not is_real.all():
            self._rows = to_device(np.flatnonzero(is_real), device)
        limits = lengths if batch.key_lengths is None else batch.key_lengths[first:last]
        self._mask: Tensor | None = None
        if int(limits.min()) < self._shape[1]:
            self._mask = to_device(positions < limits[:, None], device)[:, None, None, :]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float) -> Tensor:
        """(tokens, h, d) of the group's own queries, keys and values."""
        out = F.scaled_dot_product_attention(
            self._pad(q), self._pad(k), self._pad(v), attn_mask=self._mask, dropout_p=dropout
        )
        flat = out.transpose(1, 2).flatten(0, 1)
        return flat if self._rows is None else flat[self._rows]

    def _pad(self, states: Tensor) -> Tensor:
        """(tokens, h, d) -> (N, h, longest, d), filled up with zeros."""
        shape = states.shape[1:]
        if self._rows is not None:
            filled = states.new_zeros(self._shape[0] * self._shape[1], *shape)
            states = filled.index_copy(0, self._rows, states)
        return states.view(*self._shape, *shape).transpose(1, 2)


class VarlenKernel(Protocol):
    """One call's convention for torch's varlen_attn and flash-attn's flash_attn_varlen_func."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_offsets: Tensor,
        key_offsets: Tensor,
        longest_query: int,
        longest_key: int,
        window: int | None,
        dropout: float,
    ) -> Tensor:
        """Attend to (T, h, d) keys within offsets, at most `window` positions away."""


class VarlenAttention:
    """Attention through a kernel that takes offsets: torch's varlen_attn or flash-attn; on a GPU.

    Tokens that only look are served by giving the kernel fewer keys than queries, which it aligns
    at the end of a window; so local layers whose window cuts such a sequence go another way.
    """

    def __init__(self, batch: PackedBatch, kernel: VarlenKernel) -> None:
        self._batch = batch
        self._kernel = kernel
        self._keys: Tensor | None = None
        self._grouped: GroupedAttention | None = None
        if batch.is_key is not None:
            # On the host: asking the device which they are would wait for it.
            self._keys = to_device(np.flatnonzero(batch.is_key), batch.ids.device)
        lengths = batch.lengths if batch.key_lengths is None else batch.key_lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self._key_offsets = to_device(offsets, batch.ids.device)
        self._longest_keys = int(lengths.max())

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, dropout: float = 0.0
    ) -> Tensor:
        """Attend; arguments as in `GroupedAttention`."""
        if window is not None and self._batch.longest <= window + 1:
            window = None
        if self._keys is not None:
            if window is not None:
                if self._grouped is None:
                    self._grouped = GroupedAttention(self._batch, max_padding=np.inf)
                return self._grouped(q, k, v, window=window, dropout=dropout)
            k, v = k[self._keys], v[self._keys]
        return self._kernel(
            q,
            k,
            v,
            query_offsets=self._batch.offsets_on_device,
            key_offsets=self._key_offsets,
            longest_query=self._batch.longest,
            longest_key=self._longest_keys,
            window=window,
            dropout=dropout,
        )


def _runs(batch: PackedBatch, max_padding: float) -> list[tuple[int, int]]:
    """Runs of neighbouring sequences that may be padded to one length."""
    cuts, shortest, longest = [0], int(batch.lengths[0]), int(batch.lengths[0])
    for number, length in enumerate(batch.lengths.tolist()):
        shortest, longest = min(shortest, length), max(longest, length)
        if longest > shortest * (1 + max_padding):
            cuts.append(number)
            shortest = longest = length
    return list(pairwise([*cuts, len(batch.lengths)]))


def _with_neighbours(states: Tensor, window: int) -> Tensor:
    """(T, h, d) -> (n, h, 3 B, d): each block of keys after the one before and before the next."""
    keys: Tensor = _Neighbours.apply(states, window)  # type: ignore[no-untyped-call]
    return keys


class _Neighbours(torch.autograd.Function):
    """Blocks that share their memory with their neighbours; a gradient is the sum of its three.

    Autograd's own way through slices and concatenation takes four times the memory traffic.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, window: int) -> Tensor:
        ctx.window, ctx.tokens = window, len(states)
        blocks = -(-len(states) // window)
        before = states.new_zeros(window, *states.shape[1:])
        after = states.new_zeros((blocks + 1) * window - len(states), *states.shape[1:])
        return torch.cat([before, states, after]).unfold(0, 3 * window, window).transpose(2, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        before, own, after = gradients[0].transpose(1, 2).chunk(3, dim=1)
        total = own.clone(memory_format=torch.contiguous_format)
        total[:-1] += before[1:]
        total[1:] += after[:-1]
        return total.flatten(0, 1)[: ctx.tokens], None
