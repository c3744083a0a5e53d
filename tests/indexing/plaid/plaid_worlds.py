"""Compressed documents of any shape, for holding the compiled search against the one in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import EncodedTokens, Floats, ResidualCodec
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.segment import Segment, make_segment


class PlaidWorld(NamedTuple):
    """A codec and segments of documents that it encoded."""

    codec: ResidualCodec
    segments: list[Segment]
    tokens: Floats
    """(T, D) before they were encoded."""
    offsets: NDArray[np.int64]
    topics: Floats
    """(topics, D) that tokens are drawn around."""

    def query(self, count: int, seed: int, *, is_unit: bool = True) -> Floats:
        generator = np.random.default_rng(seed)
        query = _around(self.topics, count, generator)
        return query if is_unit else query * generator.uniform(0.5, 2, (count, 1)).astype("f4")


def make_world(
    width: int,
    bits: int,
    lengths: Sequence[int],
    cuts: Sequence[int] = (),
    *,
    centroids: int = 64,
    seed: int = 0,
) -> PlaidWorld:
    """Documents of `lengths` tokens, in segments that end at `cuts`."""
    generator = np.random.default_rng([width, bits, seed])
    topics = generator.standard_normal((40, width)).astype(np.float32)
    tokens = _around(topics, sum(lengths), generator)
    learned = fit_centroids(tokens, min(centroids, len(tokens)), iterations=3, seed=0)
    codes = CentroidSearch(learned).nearest(tokens)
    codec = ResidualCodec.fit(learned, tokens, codes, bits)
    encoded = codec.encode(tokens, codes)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    segments = []
    bounds = [0, *cuts, len(lengths)]
    for first, last in pairwise(bounds):
        rows = slice(int(offsets[first]), int(offsets[last]))
        part = EncodedTokens(encoded.codes[rows], encoded.residuals[rows], encoded.scales[rows])
        segments.append(make_segment(list(lengths[first:last]), part, tokens[rows]))
    return PlaidWorld(codec, segments, tokens, offsets, topics)


def _around(topics: Floats, count: int, generator: np.random.Generator) -> Floats:
    drawn = topics[generator.integers(0, len(topics), count)]
    tokens = drawn + 0.6 * generator.standard_normal(drawn.shape)
    units: Floats = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)
    return units
