"""Segments: runs of documents as PLAID stores them, with lists of the documents of each centroid.

Legend: N documents, T tokens, P bytes of a token's residual, D width, L centroids that have a
document here, E entries of all lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import EncodedTokens

Positions = NDArray[np.int64]


class InvertedLists(NamedTuple):
    """Which documents have a token at a centroid.

    Centroids without a document are left out, so that few documents take little room.
    """

    centroids: NDArray[np.int32]
    """(L,) ascending."""
    starts: NDArray[np.int64]
    """(L + 1,): the list of `centroids[i]` goes from starts[i] to starts[i + 1]."""
    documents: NDArray[np.int32]
    """(E,) numbers within the segment, ascending in each list, each one once."""

    def places(self, centroids: NDArray[np.integer]) -> tuple[Positions, Positions]:
        """Where the lists of some centroids start and end; an absent one is empty."""
        at = np.searchsorted(self.centroids, centroids)
        at = np.minimum(at, max(len(self.centroids) - 1, 0))
        if not len(self.centroids):
            return np.zeros(len(centroids), np.int64), np.zeros(len(centroids), np.int64)
        is_there = self.centroids[at] == centroids
        starts = self.starts[at]
        return starts, np.where(is_there, self.starts[at + 1], starts)


class Segment(NamedTuple):
    """N documents with their T tokens."""

    offsets: NDArray[np.int64]
    """(N + 1,): document i has the tokens from offsets[i] to offsets[i + 1]."""
    codes: NDArray[np.integer]
    """(T,) centroids' numbers: uint16 where that is enough, else int32."""
    residuals: NDArray[np.uint8]
    """(T, P)."""
    scales: NDArray[np.float16]
    """(T,)."""
    lists: InvertedLists
    tokens: NDArray[np.float16] | None = None
    """(T, D) the tokens themselves, for exact scores; None where they are not kept."""

    @property
    def documents(self) -> int:
        """How many documents it holds, those without tokens included."""
        return len(self.offsets) - 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name: what a file of the segment holds."""
        arrays: dict[str, NDArray[Any]] = {
            "offsets": self.offsets,
            "codes": self.codes,
            "residuals": self.residuals,
            "scales": self.scales,
            "list_centroids": self.lists.centroids,
            "list_starts": self.lists.starts,
            "list_documents": self.lists.documents,
        }
        if self.tokens is not None:
            arrays["tokens"] = self.tokens
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Segment:
        """The inverse of `arrays`."""
        lists = InvertedLists(
            arrays["list_centroids"], arrays["list_starts"], arrays["list_documents"]
        )
        offsets, codes = arrays["offsets"], arrays["codes"]
        residuals, scales = arrays["residuals"], arrays["scales"]
        return cls(offsets, codes, residuals, scales, lists, arrays.get("tokens"))


def bounds_problem(segment: Segment, centroids: int) -> str | None:
    """What is wrong with a segment's offsets or lists' centroids; None where nothing is.

    They are read in full, but nothing else is: 8 bytes of a document and 12 of a list.
    """
    for offsets, count in (
        (segment.offsets, len(segment.codes)),
        (segment.lists.starts, len(segment.lists.documents)),
    ):
        if offsets[0] != 0 or offsets[-1] != count or (offsets[1:] < offsets[:-1]).any():
            return "offsets that do not ascend from 0"
    known = segment.lists.centroids
    if (known[1:] <= known[:-1]).any():
        return "centroids of lists out of order"
    if len(known) and not 0 <= known[0] <= known[-1] < centroids:
        return f"list_centroids outside 0 to {centroids - 1}"
    return None


def make_segment(
    lengths: Sequence[int], encoded: EncodedTokens, tokens: NDArray[np.floating] | None = None
) -> Segment:
    """A segment of documents whose tokens are encoded.

    Args:
        lengths: (N,) tokens of each document.
        encoded: of all of them, document after document.
        tokens: (T, D), to be kept for exact scores.
    """
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
    return Segment(
        offsets,
        encoded.codes,
        encoded.residuals,
        encoded.scales,
        invert(encoded.codes, offsets),
        None if tokens is None else tokens.astype(np.float16),
    )


def invert(codes: NDArray[np.integer], offsets: NDArray[np.int64]) -> InvertedLists:
    """Collect each centroid's documents.

    Args:
        codes: (T,) the centroid of each token, document after document.
        offsets: (N + 1,) the bounds of the documents' tokens.
    """
    owners = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    order = np.argsort(codes, kind="stable")
    codes, owners = codes[order], owners[order]
    is_first = np.ones(len(codes), np.bool_)
    is_first[1:] = (codes[1:] != codes[:-1]) | (owners[1:] != owners[:-1])
    centroids, counts = np.unique(codes[is_first], return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return InvertedLists(centroids.astype(np.int32), starts, owners[is_first])


def merged_lists(
    segments: Sequence[Segment], centroids_at_once: int = 4096
) -> Iterator[InvertedLists]:
    """The lists of adjacent segments joined, some centroids at a time.

    The parts' `starts` count on from one part to the next; each begins with the end of the one
    before it.

    Args:
        segments: in the order of their documents.
        centroids_at_once: bounds what is in memory.
    """
    bases = np.cumsum([0, *(segment.documents for segment in segments)])
    last = max((int(s.lists.centroids[-1]) for s in segments if len(s.lists.centroids)), default=-1)
    entries = 0
    for first in range(0, last + 1, centroids_at_once):
        codes, documents = [], []
        for base, segment in zip(bases, segments):
            lists = segment.lists
            low, high = np.searchsorted(lists.centroids, [first, first + centroids_at_once])
            counts = np.diff(lists.starts[low : high + 1])
            codes.append(np.repeat(lists.centroids[low:high], counts))
            part = lists.documents[lists.starts[low] : lists.starts[high]]
            documents.append(part + np.int32(base))
        joined = np.concatenate(codes)
        # Stable: within a centroid the segments, and so the documents, stay in order.
        order = np.argsort(joined, kind="stable")
        centroids, counts = np.unique(joined, return_counts=True)
        starts = entries + np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = int(starts[-1])
        yield InvertedLists(
            centroids.astype(np.int32), starts, np.concatenate(documents)[order].astype(np.int32)
        )
