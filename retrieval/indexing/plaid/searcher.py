"""Which code builds and searches: the compiled library where it is to be had, else NumPy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval import native
from retrieval.errors import ConfigError, IndexFilesError
from retrieval.indexing.plaid.codec import EncodedTokens, ResidualCodec
from retrieval.indexing.plaid.kmeans import CentroidSearch, Nearest
from retrieval.indexing.plaid.native_build import NativeCentroidSearch, encode
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import Effort, Mask, NumpySearcher, Positions
from retrieval.indexing.plaid.segment import Segment, bounds_problem
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.ranking import Ranking

logger = logging.getLogger(__name__)

Engine = Literal["auto", "native", "numpy"]


class Searcher(Protocol):
    """Ranks documents of segments for a query; `NumpySearcher` says how.

    Attributes:
        centroids: how many there are, and so the most probes.
    """

    centroids: int

    def search(self, query_MD: Floats, effort: Effort, mask: Mask | None) -> Ranking:
        """The best documents that have a token at a probed centroid."""

    def rank(self, query_MD: Floats, positions: Positions, effort: Effort) -> Ranking:
        """The documents at these positions."""


def engine_name(engine: Engine, width: int) -> str:
    """What an index of this width runs on: "native" or "numpy".

    Raises:
        ConfigError: the library was asked for and is not there, or does not take the width.
    """
    if engine == "numpy":
        return "numpy"
    problem = None
    if native.library() is None:
        problem = "there is no compiled library"
    elif width % 8:
        problem = f"the compiled library takes widths that are a multiple of 8, not {width}"
    if problem and engine == "native":
        raise ConfigError(f'engine is "native", but {problem}: take "auto" or "numpy"')
    chosen = "numpy" if problem else "native"
    _log(chosen, problem or f"instruction set {native.instruction_set()}")
    return chosen


def make_searcher(
    codec: ResidualCodec, segments: Sequence[Segment], engine: Engine = "auto"
) -> Searcher:
    """What searches these segments; errors as in `engine_name`.

    Raises:
        IndexFilesError: offsets or lists that lead out of their arrays.
    """
    for segment in segments:
        if problem := bounds_problem(segment, len(codec.centroids)):
            raise IndexFilesError(
                f"a segment has {problem}: it was damaged after it was written; `retrieval verify` "
                "says which one, and the index has to be built again"
            )
    if engine_name(engine, codec.width) == "native":
        return NativeSearcher(codec, segments)
    return NumpySearcher(codec, segments)


def make_centroid_search(
    centroids: Floats, engine: Engine = "auto", threads: int | None = None
) -> Nearest:
    """What finds the nearest of these centroids, over threads where it can; see `engine_name`."""
    if engine_name(engine, centroids.shape[1]) == "native":
        return NativeCentroidSearch(centroids, threads)
    return CentroidSearch(centroids)


def encode_tokens(
    codec: ResidualCodec,
    tokens: Floats,
    codes: NDArray[np.integer],
    engine: Engine = "auto",
    threads: int | None = None,
) -> EncodedTokens:
    """Encode (T, D) tokens whose centroids are known; engine and threads as for the search.

    Raises:
        EmbeddingError: a token is too long.
    """
    if engine_name(engine, codec.width) == "native":
        return encode(codec, tokens, codes, threads)
    return codec.encode(tokens, codes)


@cache
def _log(chosen: str, reason: str) -> None:
    logger.info("PLAID runs on %s: %s", chosen, reason)
