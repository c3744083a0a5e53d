"""Spherical k-means in matrix products, for tens of thousands of centroids.

Legend: T tokens, K centroids, G groups of centroids, D width. All vectors are float32 of unit
length; a vector's nearest centroid is the one with the largest dot product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.indexing.plaid.codec import code_type

Floats = NDArray[np.float32]

_EXHAUSTIVE = 1024
"""Up to so many centroids every token is compared with every centroid."""
_GROUPS_PROBED = 8
_GROUPING_ROUNDS = 6
_CHUNK = 1 << 15
_CACHED_SIMILARITIES = 1 << 19
_FEW_TOKENS = 1 << 9


class Nearest(Protocol):
    """Finds tokens' nearest centroids."""

    def nearest(self, tokens_TD: Floats) -> NDArray[np.integer]:
        """For each of (T, D) tokens the number of its centroid."""


class Groups(NamedTuple):
    """Centroids put together by similarity.

    A token is compared with the centroids of its best groups only: a tenth of the work, at the
    price that a few tokens get a centroid that is nearly as near (2 % of them on SciFact).
    """

    heads_GD: Floats
    """The vectors that groups are found by."""
    groups_K: NDArray[np.int64]
    """Each centroid's group; every group has one or more."""
    probed: int
    """How many groups a token is compared with."""


def centroid_count(wanted: int | str, tokens: int, sampled: int) -> int:
    """How many centroids are learned for so many tokens.

    Args:
        wanted: so many, or "auto": the power of two nearest 12 * sqrt(tokens), or 8 * sqrt(tokens)
            where their numbers would take more than two bytes; at most a quarter of the sampled
            tokens.
        tokens: of all documents.
        sampled: that are learned from.

    Raises:
        ConfigError: more are asked for than tokens were sampled.
    """
    if isinstance(wanted, str):
        count = _nearest_power_of_two(12 * math.sqrt(tokens))
        if code_type(count) is not np.uint16:
            count = _nearest_power_of_two(8 * math.sqrt(tokens))
        return max(1, min(count, sampled // 4))
    if wanted > sampled:
        raise ConfigError(
            f"{wanted} centroids can't be learned from {sampled} tokens: ask for fewer, or "
            "raise sample_tokens"
        )
    return wanted


def _nearest_power_of_two(number: float) -> int:
    return 1 << round(math.log2(number))


def fit_centroids(
    tokens_TD: Floats,
    count: int,
    *,
    iterations: int,
    seed: int,
    search: Callable[[Floats], Nearest] | None = None,
) -> Floats:
    """Learn centroids: the same tokens and seed give the same centroids.

    Args:
        tokens_TD: (T, D), unit length.
        count: how many centroids, at most T.
        iterations: rounds of assignment and averaging.
        seed: of the choice of the first centroids.
        search: makes what finds the nearest of some centroids; `CentroidSearch` where None.

    Returns:
        (count, D), unit length.
    """
    generator = np.random.default_rng(seed)
    first = np.sort(generator.choice(len(tokens_TD), count, replace=False))
    centroids_KD = tokens_TD[first]
    for _ in range(iterations):
        codes_T = (search or CentroidSearch)(centroids_KD).nearest(tokens_TD)
        centroids_KD = _average(tokens_TD, codes_T, centroids_KD)
    return centroids_KD


def group_centroids(centroids_KD: Floats) -> Groups:
    """Group centroids by k-means; few of them are one group, so that every one is met."""
    if len(centroids_KD) <= _EXHAUSTIVE:
        return Groups(centroids_KD[:1], np.zeros(len(centroids_KD), np.int64), 1)
    count = _nearest_power_of_two(math.sqrt(len(centroids_KD)))
    heads_GD = fit_centroids(centroids_KD, count, iterations=_GROUPING_ROUNDS, seed=0)
    groups_K = CentroidSearch(heads_GD).nearest(centroids_KD)
    # Without its empty groups, as where centroids are equal, every token meets a centroid.
    filled, groups_K = np.unique(groups_K, return_inverse=True)
    return Groups(heads_GD[filled], groups_K, min(_GROUPS_PROBED, len(filled)))


class CentroidSearch:
    """Finds tokens' nearest centroids in NumPy."""

    def __init__(self, centroids_KD: Floats) -> None:
        self._centroids_KD = centroids_KD
        groups = group_centroids(centroids_KD)
        self._heads_GD, self._probed = groups.heads_GD, groups.probed
        self._members = [
            np.flatnonzero(groups.groups_K == group) for group in range(len(self._heads_GD))
        ]

    def nearest(self, tokens_TD: Floats) -> NDArray[np.int64]:
        """For each of (T, D) tokens the number of its centroid."""
        if len(self._members) == 1:
            return _nearest_of_all(tokens_TD, self._centroids_KD)
        search = self._nearest_in_groups
        parts = [search(tokens_TD[at : at + _CHUNK]) for at in range(0, len(tokens_TD), _CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _nearest_in_groups(self, tokens_TD: Floats) -> NDArray[np.int64]:
        heads_TG = tokens_TD @ self._heads_GD.T
        probed = self._probed
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
            products = tokens_TD[rows] @ self._centroids_KD[members].T
            codes = products.argmax(axis=1)
            similarities = np.take_along_axis(products, codes[:, None], axis=1)[:, 0]
            better = similarities > similarities_T[rows]
            codes_T[rows[better]] = members[codes[better]]
            similarities_T[rows[better]] = similarities[better]
        return codes_T


class LazyCentroidSearch:
    """Compares the first tokens with every centroid; groups centroids once there are many tokens.

    Grouping 65,536 centroids takes as long as comparing 700 tokens with all of them.
    """

    def __init__(self, centroids_KD: Floats) -> None:
        self._centroids_KD = centroids_KD
        self._search: Nearest | None = None
        self._expected = 0

    def expect(self, tokens: int, search: Callable[[Floats], Nearest]) -> None:
        """Say how many tokens come next, and what makes the search for many."""
        self._expected += tokens
        if self._search is None and self._expected > _FEW_TOKENS:
            self._search = search(self._centroids_KD)

    def nearest(self, tokens_TD: Floats) -> NDArray[np.integer]:
        """For each of (T, D) tokens the number of its centroid."""
        if self._search is None:
            return _nearest_of_all(tokens_TD, self._centroids_KD)
        return self._search.nearest(tokens_TD)


def _nearest_of_all(tokens_TD: Floats, centroids_KD: Floats) -> NDArray[np.int64]:
    codes_T = np.empty(len(tokens_TD), np.int64)
    # Similarities stay in the processor's cache between product and maximum.
    rows = max(1, min(512, _CACHED_SIMILARITIES // len(centroids_KD)))
    for at in range(0, len(tokens_TD), rows):
        part = slice(at, at + rows)
        codes_T[part] = (tokens_TD[part] @ centroids_KD.T).argmax(axis=1)
    return codes_T


def _average(tokens_TD: Floats, codes_T: NDArray[np.integer], centroids_KD: Floats) -> Floats:
    """The tokens' mean by centroid; a centroid without tokens moves to a badly served token."""
    order = np.argsort(codes_T, kind="stable")
    filled, starts = np.unique(codes_T[order], return_index=True)
    averages_KD = np.empty_like(centroids_KD)
    averages_KD[filled] = np.add.reduceat(tokens_TD[order], starts, axis=0)
    empty = np.setdiff1d(np.arange(len(centroids_KD)), filled)
    if len(empty):
        similarities_T = np.einsum("td,td->t", tokens_TD, centroids_KD[codes_T])
        averages_KD[empty] = tokens_TD[np.argsort(similarities_T, kind="stable")[: len(empty)]]
    norms = np.linalg.norm(averages_KD, axis=1, keepdims=True)
    # Opposite tokens can average to nothing: such a centroid keeps no direction, and stays empty.
    averages_KD /= np.where(norms > 0, norms, 1)
    return averages_KD
