"""Compressed documents of any shape, for holding the compiled search against the one in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import EncodedTokens, ResidualCodec
from retrieval.indexing.plaid.directions import PrincipalDirections
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.segment import Segment, make_segment
from retrieval.indexing.plaid.values import Floats, fit_values


class Rounding(NamedTuple):
    """Of residuals: bits of a component, and whether components are along principal directions."""

    bits: int
    is_principal: bool = False

    def takes(self, width: int) -> bool:
        return not self.is_principal or width * self.bits % 16 == 0


ROUNDINGS = [*map(Rounding, (1, 2, 4, 8)), Rounding(1, True), Rounding(2, True)]


def cases(widths: Sequence[int]) -> list[tuple[int, Rounding]]:
    """Every width with every rounding that takes it."""
    return [(width, each) for width in widths for each in ROUNDINGS if each.takes(width)]


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
    rounding: Rounding | int,
    lengths: Sequence[int],
    cuts: Sequence[int] = (),
    *,
    centroids: int = 64,
    seed: int = 0,
) -> PlaidWorld:
    """Documents of `lengths` tokens, in segments that end at `cuts`.

    Where components are to be along principal directions, tokens lie mostly along few of them.
    """
    bits, is_principal = rounding if isinstance(rounding, Rounding) else Rounding(rounding)
    generator = np.random.default_rng([width, bits, seed])
    topics = generator.standard_normal((40, width)).astype(np.float32)
    noise = unequal_directions(width, generator) if is_principal else None
    tokens = _around(topics, sum(lengths), generator, noise)
    learned = fit_centroids(tokens, min(centroids, len(tokens)), iterations=3, seed=0)
    codes = CentroidSearch(learned).nearest(tokens)
    codec = ResidualCodec.fit(learned, tokens, codes, bits)
    residuals = tokens - codec.centroids[codes]
    if is_principal:
        principal, values = PrincipalDirections.fit(residuals, tokens, bits)
        codec = replace(codec, values=values, principal=principal)
    elif codec.principal is not None:
        codec = replace(codec, values=fit_values(residuals, bits), principal=None)
    encoded = codec.encode(tokens, codes)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    segments = []
    bounds = [0, *cuts, len(lengths)]
    for first, last in pairwise(bounds):
        rows = slice(int(offsets[first]), int(offsets[last]))
        part = EncodedTokens(encoded.codes[rows], encoded.residuals[rows], encoded.scales[rows])
        segments.append(make_segment(list(lengths[first:last]), part, tokens[rows]))
    return PlaidWorld(codec, segments, tokens, offsets, topics)


def unequal_directions(width: int, generator: np.random.Generator) -> Floats:
    """(D, D) makes of independent components some that lie mostly along a few directions."""
    directions, _ = np.linalg.qr(generator.standard_normal((width, width)))
    sizes = np.exp(-3 * np.arange(width) / width)
    sizes *= np.sqrt(width / np.square(sizes).sum())
    made: Floats = (sizes[:, None] * directions).astype(np.float32)
    return made


def _around(
    topics: Floats, count: int, generator: np.random.Generator, directions: Floats | None = None
) -> Floats:
    drawn = topics[generator.integers(0, len(topics), count)]
    noise = generator.standard_normal(drawn.shape)
    tokens = drawn + 0.6 * (noise if directions is None else noise @ directions)
    units: Floats = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)
    return units
