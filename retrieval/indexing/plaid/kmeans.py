"""Spherical k-means in matrix products, for tens of thousands of centroids.

Legend: T tokens, K centroids, G groups of centroids, D width. All vectors are float32 of unit
length; a vector's nearest centroid is the one with the largest dot product.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_EXHAUSTIVE = 1024
"""Up to so many centroids every token is compared with every centroid."""
_GROUPS_PROBED = 8
_CHUNK = 1 << 15


def fit_centroids(tokens_TD: Floats, count: int, *, iterations: int, seed: int) -> Floats:
    """Learn centroids: the same tokens and seed give the same centroids.

    Args:
        tokens_TD: (T, D), unit length.
        count: how many centroids, at most T.
        iterations: rounds of assignment and averaging.
        seed: of the choice of the first centroids.

    Returns:
        (count, D), unit length.
    """
    generator = np.random.default_rng(seed)
    first = np.sort(generator.choice(len(tokens_TD), count, replace=False))
    centroids_KD = tokens_TD[first]
    for _ in range(iterations):
        codes_T, similarities_T = CentroidSearch(centroids_KD).nearest(tokens_TD)
        centroids_KD = _average(tokens_TD, codes_T, similarities_T, count)
    return centroids_KD


class CentroidSearch:
    """Finds tokens' nearest centroids.

    Many centroids are put into groups of similar ones first, and a token is compared with the
    centroids of its best groups only: a tenth of the work, at the price that a few tokens get a
    centroid that is nearly as near (2 % of them on SciFact).
    """

    def __init__(self, centroids_KD: Floats) -> None:
        self._centroids_KD = centroids_KD
        self._members: list[NDArray[np.int64]] = []
        self._heads_GD = np.empty((0, centroids_KD.shape[1]), np.float32)
        if len(centroids_KD) > _EXHAUSTIVE:
            self._group()

    def nearest(self, tokens_TD: Floats) -> tuple[NDArray[np.int64], Floats]:
        """For each of (T, D) tokens the number of its centroid and the dot product with it."""
        search = self._nearest_in_groups if self._members else self._nearest_of_all
        parts = [search(tokens_TD[at : at + _CHUNK]) for at in range(0, len(tokens_TD), _CHUNK)]
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return np.concatenate([codes for codes, _ in parts]), np.concatenate([s for _, s in parts])

    def _group(self) -> None:
        count = 1 << round(math.log2(math.sqrt(len(self._centroids_KD))))
        heads_GD = fit_centroids(self._centroids_KD, count, iterations=6, seed=0)
        groups_K, _ = CentroidSearch(heads_GD).nearest(self._centroids_KD)
        # Without its empty groups, as where centroids are equal, every token meets a centroid.
        filled = np.unique(groups_K)
        self._heads_GD = heads_GD[filled]
        self._members = [np.flatnonzero(groups_K == group) for group in filled]

    def _nearest_of_all(self, tokens_TD: Floats) -> tuple[NDArray[np.int64], Floats]:
        codes_T = np.empty(len(tokens_TD), np.int64)
        similarities_T = np.empty(len(tokens_TD), np.float32)
        # 512 rows of similarities stay in the processor's cache between product and maximum.
        for at in range(0, len(tokens_TD), 512):
            rows = slice(at, at + 512)
            codes_T[rows], similarities_T[rows] = _best(tokens_TD[rows], self._centroids_KD)
        return codes_T, similarities_T

    def _nearest_in_groups(self, tokens_TD: Floats) -> tuple[NDArray[np.int64], Floats]:
        heads_TG = tokens_TD @ self._heads_GD.T
        probed = min(_GROUPS_PROBED, len(self._members))
        chosen_TP = np.argpartition(heads_TG, -probed, axis=1)[:, -probed:]
        order = np.argsort(chosen_TP, axis=None, kind="stable")
        tokens = order // probed
        bounds = np.searchsorted(chosen_TP.ravel()[order], np.arange(len(self._members) + 1))
        codes_T = np.zeros(len(tokens_TD), np.int64)
        similarities_T = np.full(len(tokens_TD), -np.inf, np.float32)
        for group, members in enumerate(self._members):
            rows = tokens[bounds[group] : bounds[group + 1]]
            if not len(rows):
                continue
            codes, similarities = _best(tokens_TD[rows], self._centroids_KD[members])
            better = similarities > similarities_T[rows]
            codes_T[rows[better]] = members[codes[better]]
            similarities_T[rows[better]] = similarities[better]
        return codes_T, similarities_T


def _best(tokens_TD: Floats, centroids_KD: Floats) -> tuple[NDArray[np.int64], Floats]:
    similarities_TK = tokens_TD @ centroids_KD.T
    codes_T = similarities_TK.argmax(axis=1)
    return codes_T, np.take_along_axis(similarities_TK, codes_T[:, None], axis=1)[:, 0]


def _average(
    tokens_TD: Floats, codes_T: NDArray[np.int64], similarities_T: Floats, count: int
) -> Floats:
    """The tokens' mean by centroid; a centroid without tokens moves to a badly served token."""
    order = np.argsort(codes_T, kind="stable")
    filled, starts = np.unique(codes_T[order], return_index=True)
    centroids_KD = np.empty((count, tokens_TD.shape[1]), np.float32)
    centroids_KD[filled] = np.add.reduceat(tokens_TD[order], starts, axis=0)
    empty = np.setdiff1d(np.arange(count), filled)
    centroids_KD[empty] = tokens_TD[np.argsort(similarities_T, kind="stable")[: len(empty)]]
    norms = np.linalg.norm(centroids_KD, axis=1, keepdims=True)
    # Opposite tokens can average to nothing: such a centroid keeps no direction, and stays empty.
    centroids_KD /= np.where(norms > 0, norms, 1)
    return centroids_KD
