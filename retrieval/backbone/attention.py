"""Softmax attention within the sequences of a packed stream, in plain torch, on any device.

T tokens of all sequences, h heads, d width of a head, n blocks, B tokens of a block (the window)
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.backbone.packing import Int32s, PackedBatch


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
        self._groups = _groups(batch, max_padding)
        self._masks: dict[int, Tensor] = {}

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
        outs = []
        for first, last in self._groups:
            start, end = (int(self._batch.offsets[each]) for each in (first, last))
            lengths = self._batch.lengths[first:last]
            q_nhld, k_nhld, v_nhld = (
                _padded(each[start:end], lengths).transpose(1, 2) for each in (q, k, v)
            )
            mask = self._key_mask(first, last)
            out = F.scaled_dot_product_attention(
                q_nhld, k_nhld, v_nhld, attn_mask=mask, dropout_p=dropout
            ).transpose(1, 2)
            is_real = _is_real(lengths, q.device)
            outs.append(out.flatten(0, 1) if is_real is None else out[is_real])
        return torch.cat(outs)

    def _key_mask(self, first: int, last: int) -> Tensor | None:
        lengths = self._batch.lengths[first:last]
        limits = lengths
        if self._batch.key_lengths is not None:
            limits = self._batch.key_lengths[first:last]
        if int(limits.min()) == int(lengths.max()):
            return None
        positions = torch.arange(int(lengths.max()), device=self._batch.ids.device)
        ends = torch.from_numpy(limits).to(self._batch.ids.device)
        return (positions < ends[:, None])[:, None, None, :]

    def _local(self, q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float) -> Tensor:
        tokens = len(q)
        blocks = -(-tokens // window)
        fill = blocks * window - tokens
        q_nBhd = F.pad(q, (0, 0, 0, 0, 0, fill)).view(blocks, window, *q.shape[1:])
        k_nBhd, v_nBhd = (_with_neighbours(each, window, blocks) for each in (k, v))
        out = F.scaled_dot_product_attention(
            q_nBhd.transpose(1, 2),
            k_nBhd.transpose(1, 2),
            v_nBhd.transpose(1, 2),
            attn_mask=self._local_mask(window, blocks),
            dropout_p=dropout,
        )
        return out.transpose(1, 2).flatten(0, 1)[:tokens]

    def _local_mask(self, window: int, blocks: int) -> Tensor:
        """(n, 1, B, 3 B) bool, the same for every head and layer."""
        if window not in self._masks:
            batch = self._batch
            fill = blocks * window - len(batch.ids)
            # Filled places are a sequence of their own, so that no row is without a key.
            queries = F.pad(batch.sequence_of, (0, fill), value=-1)
            keys = batch.sequence_of
            if batch.is_key is not None:
                keys = keys.masked_fill(torch.from_numpy(~batch.is_key).to(keys.device), -2)
            keys = F.pad(keys, (window, window + fill), value=-1)
            keys_nB = torch.cat(
                [
                    keys[start : start + blocks * window].view(blocks, window)
                    for start in (0, window, 2 * window)
                ],
                dim=1,
            )
            i = torch.arange(window, device=keys.device)
            j = torch.arange(3 * window, device=keys.device) - window
            near = (i[:, None] - j[None, :]).abs() <= window
            same = queries.view(blocks, window, 1) == keys_nB[:, None, :]
            self._masks[window] = (same & near)[:, None]
        return self._masks[window]


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
            numbers = torch.from_numpy(np.flatnonzero(batch.is_key))
            self._keys = numbers.to(batch.ids.device, non_blocking=True)
        lengths = batch.lengths if batch.key_lengths is None else batch.key_lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self._key_offsets = torch.from_numpy(offsets).to(batch.ids.device, non_blocking=True)
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


def _groups(batch: PackedBatch, max_padding: float) -> list[tuple[int, int]]:
    """Runs of neighbouring sequences that may be padded to one length."""
    cuts, shortest, longest = [0], int(batch.lengths[0]), int(batch.lengths[0])
    for number, length in enumerate(batch.lengths.tolist()):
        shortest, longest = min(shortest, length), max(longest, length)
        if longest > shortest * (1 + max_padding):
            cuts.append(number)
            shortest = longest = length
    return list(pairwise([*cuts, len(batch.lengths)]))


def _padded(states: Tensor, lengths: Int32s) -> Tensor:
    """(tokens, h, d) -> (N, longest, h, d), filled up with zeros."""
    is_real = _is_real(lengths, states.device)
    shape = (len(lengths), int(lengths.max()), *states.shape[1:])
    if is_real is None:
        return states.reshape(shape)
    return states.new_zeros(shape).masked_scatter(is_real[:, :, None, None], states)


def _is_real(lengths: Int32s, device: torch.device) -> Tensor | None:
    """(N, longest) bool, or None where nothing is padded."""
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    mask = np.arange(longest) < lengths[:, None]
    return torch.from_numpy(mask).to(device, non_blocking=True)


def _with_neighbours(states: Tensor, window: int, blocks: int) -> Tensor:
    """(T, h, d) -> (n, 3 B, h, d): each block of keys after the one before and before the next."""
    fill = blocks * window - len(states)
    padded = F.pad(states, (0, 0, 0, 0, window, window + fill))
    split = padded.view(blocks + 2, window, *states.shape[1:])
    return torch.cat([split[:-2], split[1:-1], split[2:]], dim=1)
