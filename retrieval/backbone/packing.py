"""Texts of different lengths as one stream of tokens: batches by token budget, offsets, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Int32s = NDArray[np.int32]


def to_device(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """The array as a tensor there; a copy to a GPU is queued and nobody waits for it."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory waits for the GPU's queue
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences laid end to end.

    Attributes:
        ids: (T,) int64 token ids.
        lengths: (N,) tokens of each sequence, all at least 1.
        key_lengths: (N,) how many of a sequence's first tokens others may attend to; the rest
            only look (query expansion that is not attended to). None where all may be.
    """

    ids: Tensor
    lengths: Int32s
    key_lengths: Int32s | None = None

    @cached_property
    def offsets(self) -> Int32s:
        """(N + 1,) where each sequence starts, and T."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64 position of each token in its sequence, on the device of the ids."""
        starts = np.repeat(self.offsets[:-1], self.lengths)
        positions = np.arange(len(starts), dtype=np.int64) - starts
        return to_device(positions, self.ids.device)

    @cached_property
    def sequence_of(self) -> Tensor:
        """(T,) int64 number of the sequence that each token belongs to."""
        owners = np.repeat(np.arange(len(self.lengths), dtype=np.int64), self.lengths)
        return to_device(owners, self.ids.device)

    @cached_property
    def is_key(self) -> NDArray[np.bool_] | None:
        """(T,) which tokens may be attended to; None where all may be."""
        if self.key_lengths is None:
            return None
        positions = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)
        is_key: NDArray[np.bool_] = positions < np.repeat(self.key_lengths, self.lengths)
        return is_key

    @cached_property
    def offsets_on_device(self) -> Tensor:
        """The offsets as int32, on the device of the ids."""
        return to_device(self.offsets, self.ids.device)

    def only(self, tokens: Tensor) -> PackedBatch:
        """The tokens of these (N,) numbers, one of each sequence, as sequences of their own."""
        return PackedBatch(self.ids[tokens], np.ones_like(self.lengths))

    def padded(self, tokens: int) -> PackedBatch:
        """The same sequences, and behind them one of so many zeros; itself for none."""
        if tokens == 0:
            return self
        limits = self.key_lengths
        return PackedBatch(
            F.pad(self.ids, (0, tokens)),
            np.append(self.lengths, np.int32(tokens)),
            None if limits is None else np.append(limits, np.int32(tokens)),
        )


def pack(
    sequences: Sequence[Sequence[int]],
    key_lengths: Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """Lay token ids end to end.

    Args:
        sequences: token ids of each text, at least one each.
        key_lengths: as in `PackedBatch`.
        device: where the ids go.
    """
    lengths = np.fromiter(map(len, sequences), np.int32, len(sequences))
    flat = np.concatenate([np.asarray(each, np.int64) for each in sequences])
    ids = to_device(flat, device)
    limits = None if key_lengths is None else np.asarray(key_lengths, np.int32)
    return PackedBatch(ids, lengths, limits)


def pack_padded(ids: Tensor, mask: Tensor) -> PackedBatch:
    """Drop the padding of a right-padded batch.

    Args:
        ids: (N, L) token ids.
        mask: (N, L), nonzero for real tokens, which come first; every row has at least one.
    """
    lengths = mask.sum(1, dtype=torch.int32).cpu().numpy()
    return PackedBatch(ids[mask.bool()], lengths)


def unpack(states: Tensor, lengths: Int32s) -> Tensor:
    """Give every sequence a row again, filled up with zeros; differentiable.

    Args:
        states: (T, H).
        lengths: (N,) adding up to T.

    Returns:
        (N, longest, H).
    """
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return states.view(len(lengths), longest, states.shape[1])
    starts = np.arange(len(lengths), dtype=np.int64) * longest
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
    rows = np.arange(states.shape[0]) + np.repeat(starts - offsets, lengths)
    out = states.new_zeros(len(lengths) * longest, states.shape[1])
    out = out.index_copy(0, to_device(rows, states.device), states)
    return out.view(len(lengths), longest, states.shape[1])


def token_batches(lengths: Int32s, budget: int, *, parts: int = 1) -> list[NDArray[np.int64]]:
    """Cut texts into batches of at most `budget` tokens, longest first.

    Args:
        lengths: (N,) tokens of each text.
        budget: tokens of a batch; a longer text makes a batch of its own.
        parts: make at least so many batches where there are as many texts, of nearly equal work.

    Returns:
        The numbers of the texts of each batch.

    >>> [batch.tolist() for batch in token_batches(np.int32([3, 9, 4, 2]), budget=7)]
    [[1], [2], [0, 3]]
    """
    total = int(lengths.sum(dtype=np.int64))
    budget = max(1, min(budget, -(-total // parts)))
    batches: list[NDArray[np.int64]] = []
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    start = taken = 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, taken + budget, side="right")))
        batches.append(order[start:stop])
        start, taken = stop, int(ends[stop - 1])
    return _with_even_end(batches, lengths, budget)


def _with_even_end(
    batches: list[NDArray[np.int64]], lengths: Int32s, budget: int
) -> list[NDArray[np.int64]]:
    """Halve the tokens of the last two batches where the last one would be small.

    Sizes of batches are then few: oneDNN compiles and keeps a product for each that it meets.
    """
    if len(batches) < 2 or 2 * lengths[batches[-1]].sum() >= lengths[batches[-2]].sum():
        return batches
    tail = np.concatenate(batches[-2:])
    ends = np.cumsum(lengths[tail], dtype=np.int64)
    cut = max(1, int(np.searchsorted(ends, ends[-1] / 2, side="right")))
    if ends[-1] - ends[cut - 1] > budget:
        return batches
    return [*batches[:-2], tail[:cut], tail[cut:]]
