"""The stages of a search in NumPy against loops over all documents, in one segment and in three."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import EncodedTokens, ResidualCodec
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.numpy_search import Effort, NumpySearcher
from retrieval.indexing.plaid.segment import make_segment

Tokens = Callable[[int, int], NDArray[np.float32]]


class Compressed(NamedTuple):
    """120 documents of 1 to 12 tokens, and a query of 5 tokens."""

    codec: ResidualCodec
    searcher: NumpySearcher
    bounds: NDArray[np.int64]
    codes: NDArray[np.integer]
    decoded: NDArray[np.float32]
    tokens: NDArray[np.float32]
    query: NDArray[np.float32]
    similarities: NDArray[np.float32]

    def centroid_scores(self) -> NDArray[np.float32]:
        """MaxSim of the query with every document's centroids."""
        return self.maxsim(self.codec.centroids[self.codes])

    def maxsim(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = np.split(tokens, self.bounds[1:-1])
        return np.array([(self.query @ part.T).max(axis=1).sum() for part in parts], np.float32)


@pytest.fixture(scope="module", params=[(0, 120), (0, 7, 8, 120)], ids=["one", "three"])
def compressed(clustered: Tokens, request: pytest.FixtureRequest) -> Compressed:
    lengths = np.random.default_rng(0).integers(1, 13, 120)
    tokens = clustered(int(lengths.sum()), 1)
    centroids = fit_centroids(tokens, 64, iterations=3, seed=0)
    codes = CentroidSearch(centroids).nearest(tokens)
    codec = ResidualCodec.fit(centroids, tokens, codes, 4)
    encoded = codec.encode(tokens, codes)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    segments = []
    for first, last in zip(request.param, request.param[1:]):
        rows = slice(bounds[first], bounds[last])
        part = EncodedTokens(encoded.codes[rows], encoded.residuals[rows], encoded.scales[rows])
        segments.append(make_segment(lengths[first:last].tolist(), part, tokens[rows]))
    searcher = NumpySearcher(codec, segments)
    query = clustered(5, 2)
    similarities = query @ codec.centroids.T
    decoded = codec.decode(encoded)
    return Compressed(codec, searcher, bounds, codes, decoded, tokens, query, similarities)


def test_all_probes_give_the_scores_of_the_centroids(compressed: Compressed) -> None:
    found, scores = compressed.searcher.candidates(compressed.similarities, 64, None)
    assert found.tolist() == list(range(120))
    assert scores == pytest.approx(compressed.centroid_scores(), abs=1e-5)
    again = compressed.searcher.centroid_scores(compressed.similarities, found)
    assert again == pytest.approx(compressed.centroid_scores(), abs=1e-5)


@pytest.mark.parametrize("probes", [1, 3, 10])
def test_probes_find_the_documents_at_the_best_centroids(
    compressed: Compressed, probes: int
) -> None:
    found, scores = compressed.searcher.candidates(compressed.similarities, probes, None)
    best = np.unique(np.argsort(-compressed.similarities, axis=1)[:, :probes])
    parts = np.split(compressed.codes, compressed.bounds[1:-1])
    assert found.tolist() == [at for at, part in enumerate(parts) if np.isin(part, best).any()]
    # What was not seen is put at the most that it can be.
    assert (scores >= compressed.centroid_scores()[found] - 1e-5).all()


def test_a_mask_takes_documents_out_and_changes_no_other(compressed: Compressed) -> None:
    mask = np.arange(120) % 3 == 0
    found, scores = compressed.searcher.candidates(compressed.similarities, 5, None)
    kept, masked = compressed.searcher.candidates(compressed.similarities, 5, mask)
    assert kept.tolist() == found[mask[found]].tolist()
    assert masked == pytest.approx(scores[mask[found]], abs=1e-6)


def test_residual_scores_are_those_of_the_decoded_tokens(compressed: Compressed) -> None:
    chosen = np.arange(1, 120, 2)
    scores = compressed.searcher.residual_scores(
        compressed.query, compressed.similarities, chosen, math.inf
    )
    assert scores == pytest.approx(compressed.maxsim(compressed.decoded)[chosen], abs=1e-3)


def test_a_margin_leaves_out_tokens_whose_centroids_are_far(compressed: Compressed) -> None:
    chosen = np.arange(120)
    arguments = (compressed.query, compressed.similarities, chosen)
    everything = compressed.searcher.residual_scores(*arguments, math.inf)
    wide = compressed.searcher.residual_scores(*arguments, 2.0)
    narrow = compressed.searcher.residual_scores(*arguments, 0.0)
    assert wide == pytest.approx(everything, abs=1e-6)
    # Tokens at the best centroid of a query token are left, for all query tokens.
    products = compressed.query @ compressed.decoded.T
    expected = []
    for first, last in pairwise(compressed.bounds):
        by_centroid = compressed.similarities[:, compressed.codes[first:last]]
        is_best = (by_centroid >= by_centroid.max(axis=1, keepdims=True) - 1e-7).any(axis=0)
        expected.append(products[:, first:last][:, is_best].max(axis=1).sum())
    assert narrow == pytest.approx(expected, abs=1e-3)
    assert (narrow < everything - 0.01).any()


def test_exact_scores_are_those_of_the_tokens(compressed: Compressed) -> None:
    chosen = np.arange(0, 120, 3)
    scores = compressed.searcher.exact_scores(compressed.query, chosen)
    assert scores == pytest.approx(compressed.maxsim(compressed.tokens)[chosen], abs=1e-2)


def test_a_search_ranks_the_best_of_each_stage(compressed: Compressed) -> None:
    whole = Effort(probes=64, candidates=120, scored=120, rescored=120)
    positions, scores = compressed.searcher.search(compressed.query, whole, None)
    exact = compressed.maxsim(compressed.tokens)
    assert scores == pytest.approx(exact[positions], abs=1e-2)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    narrow = Effort(probes=64, candidates=60, scored=20, rescored=10)
    found, _ = compressed.searcher.search(compressed.query, narrow, None)
    best = compressed.centroid_scores()
    by_centroids = set(np.argsort(-best)[:20].tolist())
    assert len(found) == 10
    assert set(found.tolist()) <= by_centroids


def test_patience_ends_when_the_rest_can_hardly_come_among_the_best(compressed: Compressed) -> None:
    # Without residuals to speak of nothing is gained, so that little patience loses nothing.
    effort = Effort(probes=64, candidates=120, scored=119, rescored=0, wanted=5)
    whole, scores = compressed.searcher.search(compressed.query, effort, None)
    assert len(whole) == 119
    found, some = compressed.searcher.search(compressed.query, effort._replace(patience=1e5), None)
    assert (found.tolist(), some.tolist()) == (whole.tolist(), scores.tolist())
    hasty, _ = compressed.searcher.search(compressed.query, effort._replace(patience=0.01), None)
    assert 32 <= len(hasty) < 119
    calm, best = compressed.searcher.search(compressed.query, effort._replace(patience=4), None)
    assert len(calm) >= len(hasty)
    assert calm[:5].tolist() == whole[:5].tolist()
    assert best[:5] == pytest.approx(scores[:5], abs=1e-6)
