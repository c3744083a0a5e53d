"""A uniform sample of the rows of a stream, for centroids and codebooks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RowSample:
    """At most `size` rows, each row of the stream with the same chance, in bounded memory.

    Every row draws a key, and the `size` smallest keys stay. So the sample depends on the rows'
    order and on the seed, not on how the stream was cut into batches.

    Attributes:
        seen: how many rows went by.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.seen = 0
        self._size = size
        self._generator = np.random.default_rng(seed)
        self._limit = 1.0
        self._keys: list[NDArray[np.float64]] = []
        self._rows: list[NDArray[np.float32]] = []
        self._held = 0

    def add(self, rows: NDArray[np.floating]) -> None:
        """Take in (N, D) rows; only the chosen ones are copied."""
        keys = self._generator.random(len(rows))
        chosen = keys < self._limit
        self.seen += len(rows)
        self._keys.append(keys[chosen])
        self._rows.append(rows[chosen].astype(np.float32))
        self._held += len(self._keys[-1])
        if self._held > 2 * self._size:
            self._prune()

    def rows(self) -> NDArray[np.float32]:
        """The sample, (min(size, seen), D), in the order of the stream; (0, 0) where none came."""
        if not self._rows:
            return np.empty((0, 0), np.float32)
        self._prune()
        return np.concatenate(self._rows)

    def _prune(self) -> None:
        keys = np.concatenate(self._keys)
        if len(keys) > self._size:
            self._limit = float(np.partition(keys, self._size)[self._size])
            chosen = [part < self._limit for part in self._keys]
            self._rows = [part[mask] for part, mask in zip(self._rows, chosen)]
            self._keys = [part[mask] for part, mask in zip(self._keys, chosen)]
        self._held = sum(map(len, self._keys))
