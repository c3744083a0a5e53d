"""Runs of rows: the tokens of all documents in a few long arrays, with the bounds of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RaggedRows:
    """Columns of equal length, and for each document the run of rows that is its own.

    Appended parts are joined when a column is asked for, once for many parts.
    """

    def __init__(
        self, columns: Mapping[str, Array] | None = None, offsets: Array | None = None
    ) -> None:
        self._columns = dict(columns or {})
        self._offsets: NDArray[np.int64] = np.zeros(1, np.int64) if offsets is None else offsets
        self._parts: dict[str, list[Array]] = {}
        self._lengths: list[Array] = []

    def append(self, lengths: Sequence[int], **columns: Array) -> None:
        """Add documents with `lengths` rows each; every column has the sum of them."""
        self._lengths.append(np.asarray(lengths, np.int64))
        for name, part in columns.items():
            self._parts.setdefault(name, []).append(part)

    def __getitem__(self, name: str) -> Array:
        parts = self._parts.pop(name, None)
        if parts:
            before = [self._columns[name]] if len(self._columns.get(name, ())) else []
            self._columns[name] = np.concatenate([*before, *parts])
        return self._columns[name]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(documents + 1,): document i has the rows from offsets[i] to offsets[i + 1]."""
        if self._lengths:
            ends = self._offsets[-1] + np.cumsum(np.concatenate(self._lengths))
            self._offsets = np.concatenate([self._offsets, ends])
            self._lengths = []
        return self._offsets

    def arrays(self) -> dict[str, Array]:
        """All columns by name, and the offsets as "offsets": what a file of them holds."""
        names = {**self._columns, **self._parts}
        return {**{name: self[name] for name in names}, "offsets": self.offsets}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> RaggedRows:
        """The inverse of `arrays`."""
        columns = {name: array for name, array in arrays.items() if name != "offsets"}
        return cls(columns, arrays["offsets"])


def rows_of(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of some runs, one run after the other, and where each one starts among them.

    >>> rows, starts = rows_of(np.array([2, 0]), np.array([5, 2]))
    >>> rows.tolist(), starts.tolist()
    ([2, 3, 4, 0, 1], [0, 3])
    """
    lengths = ends - starts
    bounds = np.cumsum(lengths)
    first = bounds - lengths
    total = int(bounds[-1]) if len(bounds) else 0
    return np.arange(total) + np.repeat(starts - first, lengths), first
