"""Exact MaxSim in blocks of matrix products, and how well a ranking agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEPTH = 100
_CHUNK_TOKENS = 2048
_QUERIES_AT_ONCE = 64
_DOCUMENTS_AT_ONCE = 5_000

Floats = NDArray[np.float32]


class Truth(NamedTuple):
    """The best documents of each query by exact MaxSim."""

    ids: NDArray[np.int64]
    """(queries, depth), best first; equal scores in order of position."""
    scores: Floats


def exact_truth(
    queries: NDArray[np.floating],
    tokens: NDArray[np.floating],
    lengths: NDArray[np.int64],
    depth: int = DEPTH,
) -> Truth:
    """Score every document in float32.

    Args:
        queries: (Q, M, D).
        tokens: (T, D), document after document; may be mapped from a file, read once.
        lengths: (documents,) tokens of each, at least 1.
        depth: hits of each query, at most the number of documents.
    """
    asked = queries.astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    fresh: list[Floats] = []
    begun = first = 0
    while first < len(lengths):
        limit = offsets[first] + _CHUNK_TOKENS
        last = max(first + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
        chunk = np.asarray(tokens[offsets[first] : offsets[last]], np.float32)
        fresh.append(_score(asked, chunk, offsets[first:last] - offsets[first]))
        if last - begun >= _DOCUMENTS_AT_ONCE or last == len(lengths):
            scores = np.concatenate([scores, *fresh], axis=1)
            numbers = np.broadcast_to(np.arange(begun, last), (len(ids), last - begun))
            ids = np.concatenate([ids, numbers], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
            scores = np.take_along_axis(scores, order, axis=1)
            ids = np.take_along_axis(ids, order, axis=1)
            fresh, begun = [], last
        first = last
    return Truth(ids, scores)


def _score(queries: Floats, chunk: Floats, starts: NDArray[np.int64]) -> Floats:
    """(Q, documents) of the chunk's documents."""
    count, length, width = queries.shape
    scores = np.empty((count, len(starts)), np.float32)
    for at in range(0, count, _QUERIES_AT_ONCE):
        part = queries[at : at + _QUERIES_AT_ONCE]
        # Tokens are the rows, so that the maximum over a document's tokens runs along memory.
        products = chunk @ part.reshape(-1, width).T
        best = np.maximum.reduceat(products, starts, axis=0)
        scores[at : at + len(part)] = best.reshape(len(starts), len(part), length).sum(axis=2).T
    return scores


def recall(found: Sequence[NDArray[np.int64]], truth: NDArray[np.int64], k: int) -> float:
    """The mean share of the true best k that are among the first k found.

    >>> recall([np.array([3, 9, 1])], np.array([[1, 3, 7]]), 3)
    0.6666666666666666
    """
    hits = [len(np.intersect1d(each[:k], best[:k])) for each, best in zip(found, truth)]
    possible: int = len(hits) * min(k, truth.shape[1])
    return sum(hits) / possible


def ndcg(found: Sequence[NDArray[np.int64]], truth: NDArray[np.int64], k: int = 10) -> float:
    """Agreement with the true order: nDCG@k where the truth's rank r has the gain k - r.

    >>> ndcg([np.array([1, 3, 7])], np.array([[1, 3, 7]]), 3)
    1.0
    >>> ndcg([np.array([4, 5, 6])], np.array([[1, 3, 7]]), 3)
    0.0
    """
    k = min(k, truth.shape[1])
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gains = k - np.arange(k)
    ideal = float((gains * discounts).sum())
    total = 0.0
    for each, best in zip(found, truth):
        # The gain of each that was found: that of its rank in the truth, where it has one.
        matches = each[:k, None] == best[:k]
        total += float((matches @ gains) @ discounts[: len(matches)])
    return total / (len(truth) * ideal)
