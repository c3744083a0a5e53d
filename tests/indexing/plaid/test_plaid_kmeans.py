"""K-means: the same for the same seed, no centroid wasted, the nearest one found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.indexing.plaid.kmeans import (
    CentroidSearch,
    LazyCentroidSearch,
    centroid_count,
    fit_centroids,
)

Tokens = Callable[[int, int], NDArray[np.float32]]


def test_a_seed_decides_the_centroids(clustered: Tokens) -> None:
    tokens = clustered(3000, 0)
    first = fit_centroids(tokens, 64, iterations=3, seed=5)
    assert np.array_equal(first, fit_centroids(tokens, 64, iterations=3, seed=5))
    assert not np.array_equal(first, fit_centroids(tokens, 64, iterations=3, seed=6))


def test_centroids_have_unit_length(clustered: Tokens) -> None:
    centroids = fit_centroids(clustered(3000, 0), 64, iterations=3, seed=0)
    assert centroids.shape == (64, 13)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(64), abs=1e-6)


def test_more_rounds_bring_the_centroids_nearer(clustered: Tokens) -> None:
    tokens = clustered(3000, 0)
    means = []
    for rounds in (1, 2, 8):
        centroids = fit_centroids(tokens, 64, iterations=rounds, seed=0)
        codes = CentroidSearch(centroids).nearest(tokens)
        means.append((tokens * centroids[codes]).sum(axis=1).mean())
    assert means[0] < means[1] < means[2]


def test_an_empty_centroid_moves_to_a_badly_served_token() -> None:
    # Whatever is drawn at first, two of the three centroids are equal to the third or nearly so.
    axes = np.eye(3, dtype=np.float32)
    tokens = np.concatenate([np.repeat(axes[:1], 500, axis=0), axes[1:]])
    centroids = fit_centroids(tokens, 3, iterations=3, seed=0)
    assert sorted(map(tuple, centroids.tolist())) == sorted(map(tuple, axes.tolist()))


def test_few_centroids_are_all_compared(clustered: Tokens) -> None:
    tokens, centroids = clustered(2000, 1), clustered(700, 2)
    products = tokens @ centroids.T
    codes = CentroidSearch(centroids).nearest(tokens)
    assert np.array_equal(codes, products.argmax(axis=1))


def test_groups_of_many_centroids_lose_little(clustered: Tokens) -> None:
    tokens, centroids = clustered(2000, 1), clustered(3000, 2)
    products = tokens @ centroids.T
    codes = CentroidSearch(centroids).nearest(tokens)
    similarities = products[np.arange(2000), codes]
    assert np.mean(codes == products.argmax(axis=1)) > 0.95
    assert similarities.mean() > 0.999 * products.max(axis=1).mean()


def test_equal_centroids_serve_every_token(clustered: Tokens) -> None:
    # All of them fall into one group: a token must not be sent to the empty ones.
    tokens, centroid = clustered(50, 1), clustered(1, 2)
    codes = CentroidSearch(np.repeat(centroid, 2000, axis=0)).nearest(tokens)
    assert codes.min() >= 0
    assert codes.max() < 2000


def test_no_tokens_have_no_centroids(clustered: Tokens) -> None:
    assert len(CentroidSearch(clustered(8, 0)).nearest(np.empty((0, 13), np.float32))) == 0


def test_few_tokens_meet_every_centroid_and_many_are_worth_groups(clustered: Tokens) -> None:
    centroids, tokens = clustered(2000, 0), clustered(3000, 1)
    made: list[CentroidSearch] = []

    def make(given: NDArray[np.float32]) -> CentroidSearch:
        made.append(CentroidSearch(given))
        return made[-1]

    search = LazyCentroidSearch(centroids)

    def nearest(part: NDArray[np.float32]) -> NDArray[np.integer]:
        search.expect(len(part), make)
        return search.nearest(part)

    for at in (0, 250):
        part = tokens[at : at + 250]
        assert np.array_equal(nearest(part), (part @ centroids.T).argmax(axis=1))
    assert not made
    for part in (tokens[1000:], tokens[:5]):
        assert np.array_equal(nearest(part), CentroidSearch(centroids).nearest(part))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, 1),
        (100, 25),
        (10_000, 1024),
        (1_900_000, 16_384),
        (94_000_000, 65_536),
        (120_000_000, 65_536),
        (300_000_000, 131_072),
    ],
)
def test_centroids_grow_with_the_root_of_the_tokens(tokens: int, expected: int) -> None:
    assert centroid_count("auto", tokens, min(tokens, 1 << 19)) == expected


def test_as_many_centroids_are_learned_as_are_asked_for() -> None:
    assert centroid_count(48, 10_000, 48) == 48
    with pytest.raises(ConfigError, match="49 centroids can't be learned from 48 tokens"):
        centroid_count(49, 10_000, 48)
