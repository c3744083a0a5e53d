"""The best of many scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions and their scores, best first."""


def top_k(scores: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None) -> Ranking:
    """The best `k` positions of one row of scores; equal scores in order of position.

    A score of -inf is no match: fewer than `k` positions come back where fewer match.

    >>> top_k(np.array([1, 3, -np.inf, 2, 3], np.float32), 3, None)[0].tolist()
    [1, 4, 3]
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    candidates = np.flatnonzero(scores > -np.inf)
    if len(candidates) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    best = candidates[order]
    return best, scores[best].astype(np.float32)
