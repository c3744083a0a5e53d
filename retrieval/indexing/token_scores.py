"""Exact MaxSim of one query and some documents, through the compiled library or NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.native_maxsim import is_supported, maxsim_of_runs
from retrieval.indexing.vectors import Vectors

_BLOCK_TOKENS = 1 << 14
"""Token vectors that are multiplied together: at width 128 they and their products fit a cache."""


def maxsim_scores(query: NDArray[np.float32], documents: Sequence[Vectors]) -> NDArray[np.float32]:
    """Sum each query token's best match in every document, as `retrieval.scoring.maxsim` does.

    Documents are multiplied by blocks, without padding, on the thread that asks.

    Args:
        query: (M, D) float32.
        documents: B arrays (T_b, D) of any float dtype; one without tokens scores -inf.

    Returns:
        (B,) float32.
    """
    scores = np.full(len(documents), -np.inf, np.float32)
    filled = [row for row, document in enumerate(documents) if len(document)]
    for rows in _blocks(filled, documents):
        block = np.concatenate([documents[row] for row in rows]).astype(np.float32, copy=False)
        lengths = np.array([len(documents[row]) for row in rows])
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if is_supported(query.shape[1]) and len(query):
            scores[rows] = maxsim_of_runs(query, block, starts, ends, threads=1)
            continue
        best = np.maximum.reduceat(query @ block.T, starts, axis=1)
        scores[rows] = best.sum(axis=0)
    return scores


def _blocks(rows: list[int], documents: Sequence[Vectors]) -> Iterator[list[int]]:
    """Runs of rows with about `_BLOCK_TOKENS` tokens each."""
    block: list[int] = []
    tokens = 0
    for row in rows:
        if block and tokens + len(documents[row]) > _BLOCK_TOKENS:
            yield block
            block, tokens = [], 0
        block.append(row)
        tokens += len(documents[row])
    if block:
        yield block
