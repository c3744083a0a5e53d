"""The two stages of a search against loops over all documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.inverted import InvertedLists, invert
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.search import maxsim, probe
from retrieval.indexing.ragged import RaggedRows

Tokens = Callable[[int, int], NDArray[np.float32]]


class Compressed(NamedTuple):
    """120 documents of 1 to 12 tokens, and a query of 5 tokens."""

    codec: ResidualCodec
    rows: RaggedRows
    decoded: NDArray[np.float32]
    lists: InvertedLists
    query: NDArray[np.float32]
    similarities: NDArray[np.float32]

    def centroid_scores(self) -> NDArray[np.float32]:
        """MaxSim of the query with every document's centroids."""
        bounds = self.rows.offsets
        parts = [
            self.similarities[:, self.rows["codes"][bounds[at] : bounds[at + 1]]]
            for at in range(120)
        ]
        return np.array([part.max(axis=1).sum() for part in parts], np.float32)


@pytest.fixture(scope="module")
def compressed(clustered: Tokens) -> Compressed:
    lengths = np.random.default_rng(0).integers(1, 13, 120)
    tokens = clustered(int(lengths.sum()), 1)
    centroids = fit_centroids(tokens, 64, iterations=3, seed=0)
    codes, _ = CentroidSearch(centroids).nearest(tokens)
    codec = ResidualCodec.fit(centroids, tokens, codes, 4)
    encoded = codec.encode(tokens, codes)
    rows = RaggedRows()
    rows.append(lengths.tolist(), **encoded._asdict())
    query = clustered(5, 2)
    lists = invert(encoded.codes, rows.offsets, 64)
    return Compressed(codec, rows, codec.decode(encoded), lists, query, query @ codec.centroids.T)


def test_all_probes_give_the_scores_of_the_centroids(compressed: Compressed) -> None:
    found, scores = probe(
        compressed.similarities, compressed.lists, probes=64, documents=120, mask=None
    )
    assert found.tolist() == list(range(120))
    assert scores == pytest.approx(compressed.centroid_scores(), abs=1e-5)


@pytest.mark.parametrize("probes", [1, 3, 10])
def test_probes_find_the_documents_at_the_best_centroids(
    compressed: Compressed, probes: int
) -> None:
    found, scores = probe(
        compressed.similarities, compressed.lists, probes=probes, documents=120, mask=None
    )
    best = np.unique(np.argsort(-compressed.similarities, axis=1)[:, :probes])
    bounds = compressed.rows.offsets
    expected = [
        at
        for at in range(120)
        if np.isin(compressed.rows["codes"][bounds[at] : bounds[at + 1]], best).any()
    ]
    assert found.tolist() == expected
    # What was not seen is put at the most that it can be.
    assert (scores >= compressed.centroid_scores()[found] - 1e-5).all()


def test_a_mask_takes_documents_out_and_changes_no_other(compressed: Compressed) -> None:
    mask = np.arange(120) % 3 == 0
    arguments = {"probes": 5, "documents": 120}
    found, scores = probe(compressed.similarities, compressed.lists, mask=None, **arguments)
    kept, masked = probe(compressed.similarities, compressed.lists, mask=mask, **arguments)
    assert kept.tolist() == found[mask[found]].tolist()
    assert masked == pytest.approx(scores[mask[found]], abs=1e-6)


def test_residual_scores_are_those_of_the_decoded_tokens(compressed: Compressed) -> None:
    chosen = np.arange(119, -1, -2)
    bounds = compressed.rows.offsets
    expected = [
        (compressed.query @ compressed.decoded[bounds[at] : bounds[at + 1]].T).max(axis=1).sum()
        for at in chosen
    ]
    scores = maxsim(
        compressed.query, compressed.similarities, chosen, compressed.rows, compressed.codec
    )
    assert scores == pytest.approx(expected, abs=1e-5)
