"""For each centroid the documents that have a token there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class InvertedLists(NamedTuple):
    """Centroid c has the documents from starts[c] to starts[c + 1], ascending, each one once."""

    starts: NDArray[np.int64]
    documents: NDArray[np.int32]


def invert(codes: NDArray[np.integer], offsets: NDArray[np.int64], centroids: int) -> InvertedLists:
    """Collect each centroid's documents.

    Args:
        codes: (T,) the centroid of each token, document after document.
        offsets: (documents + 1,) the bounds of the documents' tokens.
        centroids: how many centroids there are.
    """
    owners = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    order = np.argsort(codes, kind="stable")
    codes, owners = codes[order], owners[order]
    is_first = np.ones(len(codes), np.bool_)
    is_first[1:] = (codes[1:] != codes[:-1]) | (owners[1:] != owners[:-1])
    counts = np.bincount(codes[is_first], minlength=centroids)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return InvertedLists(starts, owners[is_first])
