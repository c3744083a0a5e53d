"""The PLAID index: multi-vector documents as centroids and residuals of a few bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.index import Batch, Index, Ranking
from retrieval.indexing.plaid.codec import EncodedTokens, Floats, ResidualCodec
from retrieval.indexing.plaid.kmeans import Nearest, fit_centroids
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import Effort, NumpySearcher
from retrieval.indexing.plaid.searcher import (
    Engine,
    encode_tokens,
    make_centroid_search,
    make_searcher,
)
from retrieval.indexing.plaid.segment import Segment, make_segment
from retrieval.indexing.sampling import RowSample
from retrieval.indexing.vectors import Vectors, check_multi_queries, check_multi_vectors

logger = logging.getLogger(__name__)

_TOKENS_PER_CENTROID = 16
"""Tokens that a centroid is trained on; more of them cost time and gain nothing measurable."""


@dataclass(frozen=True, kw_only=True)
class PlaidSettings:
    """Settings of the PLAID index.

    Attributes:
        bits: of each component of a residual: 4 keeps the ranking, 2 halves the files.
        centroids: how many; "auto" is the power of two nearest 16 * sqrt(tokens), as in PLAID,
            and at most a quarter of the sampled tokens.
        keep_tokens: keep the tokens in float16 beside their codes, for exact scores.
        probes: centroids that are looked at for each query token.
        candidates: documents that are ranked by their centroids alone.
        scored: documents whose residuals are scored; never fewer than 2 * k.
        rescored: documents that are scored exactly at the end, with `keep_tokens`; never fewer
            than k.
        margin: how far a token's centroid may score below the document's best one for the token's
            residual to be looked at, in standard deviations of residuals' products.
        engine: what builds and searches; "auto" is the compiled library where there is one.
        sample_tokens: tokens that are held in memory to learn from.
        iterations: rounds of k-means.
        seed: of the sample and of k-means.
    """

    bits: Literal[1, 2, 4, 8] = 4
    centroids: int | Literal["auto"] = "auto"
    keep_tokens: bool = False
    probes: int = 32
    candidates: int = 4096
    scored: int = 384
    rescored: int = 128
    margin: float = 3.0
    engine: Engine = "auto"
    sample_tokens: int = 1 << 19
    iterations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4, 8):
            raise ConfigError(f"bits is {self.bits}, expected 1, 2, 4 or 8")
        if self.centroids != "auto" and (isinstance(self.centroids, str) or self.centroids < 1):
            raise ConfigError(f'centroids is {self.centroids!r}, expected at least 1 or "auto"')
        for name in ("probes", "candidates", "scored", "rescored", "sample_tokens", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.engine not in get_args(Engine):
            raise ConfigError(f"engine is {self.engine!r}, expected one of {get_args(Engine)}")
        if not self.margin > 0:
            raise ConfigError(f"margin is {self.margin}, expected above 0")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected at least 0")


class PlaidIndex(Index[Sequence[Vectors]]):
    """MaxSim over compressed tokens, of the documents that share centroids with the query.

    Made for tokens of unit length. Others keep their lengths in the scores, but the candidates are
    chosen by direction alone. A document without tokens is kept and never found, and a query
    without tokens finds nothing.

    Centroids are learned from a sample when the index is built; documents that are added later
    get the nearest of them.

    Source: Santhanam et al. 2022, "PLAID", arXiv:2205.09707.
    """

    kind = "plaid"
    settings_type = PlaidSettings

    def __init__(self, settings: PlaidSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._codec: ResidualCodec | None = None
        self._nearest: Nearest | None = None
        self._segments: list[Segment] = []
        self._searcher: NumpySearcher | NativeSearcher | None = None

    def _learn(self, batches: Iterable[Batch[Sequence[Vectors]]]) -> None:
        settings = self.settings
        sample = RowSample(settings.sample_tokens, settings.seed)
        width = None
        for batch in batches:
            for item in check_multi_vectors(batch.ids, batch.items, width):
                width = item.shape[1]
                if len(item):
                    sample.add(item)
        if not sample.seen:
            return
        tokens = _units(sample.rows())
        count = self._centroid_count(sample.seen, len(tokens))
        trained_on = np.linspace(
            0, len(tokens) - 1, min(len(tokens), count * _TOKENS_PER_CENTROID)
        ).astype(np.int64)
        tokens = tokens[trained_on]
        search = partial(make_centroid_search, engine=settings.engine)
        centroids = fit_centroids(
            tokens, count, iterations=settings.iterations, seed=settings.seed, search=search
        )
        codes = search(centroids).nearest(tokens)
        self._codec = ResidualCodec.fit(centroids, tokens, codes, settings.bits)
        logger.info("%d centroids from %d of %d tokens", count, len(tokens), sample.seen)

    def _centroid_count(self, tokens: int, sampled: int) -> int:
        wanted: int | str = self.settings.centroids
        if isinstance(wanted, str):
            nearest: int = 1 << round(math.log2(16 * math.sqrt(tokens)))
            return max(1, min(nearest, sampled // 4))
        if wanted > sampled:
            raise ConfigError(
                f"{wanted} centroids can't be learned from {sampled} tokens: ask for fewer, or "
                "raise sample_tokens"
            )
        return wanted

    def _append(self, ids: Sequence[str], items: Sequence[Vectors]) -> None:
        checked = check_multi_vectors(ids, items, self._codec.width if self._codec else None)
        lengths = [len(item) for item in checked]
        if self._codec is None:
            self._learn([Batch(ids, checked)])
        if self._codec is None:
            self._add_segment(make_segment(lengths, _no_tokens()))
            return
        if self._nearest is None:
            self._nearest = make_centroid_search(self._codec.centroids, self.settings.engine)
        tokens = np.concatenate(checked)
        # The nearest centroid depends on the direction alone, so that lengths need no division.
        codes = self._nearest.nearest(tokens)
        encoded = encode_tokens(self._codec, tokens, codes, self.settings.engine)
        kept = tokens if self.settings.keep_tokens else None
        self._add_segment(make_segment(lengths, encoded, kept))

    def _add_segment(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._searcher = None

    def _search(
        self, queries: Sequence[Vectors], k: int, mask: NDArray[np.bool_] | None
    ) -> Iterator[Ranking]:
        if self._codec is None:
            for _ in queries:
                yield np.empty(0, np.int64), np.empty(0, np.float32)
            return
        if self._searcher is None:
            self._searcher = make_searcher(self._codec, self._segments, self.settings.engine)
        lengths = np.concatenate([np.diff(segment.offsets) for segment in self._segments])
        possible = lengths > 0 if mask is None else (lengths > 0) & mask
        for query in check_multi_queries(queries, self._codec.width):
            if len(query):
                positions, scores = self._search_one(self._searcher, query, k, possible)
                yield positions[:k], scores[:k]
            else:
                yield np.empty(0, np.int64), np.empty(0, np.float32)

    def _search_one(
        self,
        searcher: NumpySearcher | NativeSearcher,
        query: Floats,
        k: int,
        possible: NDArray[np.bool_],
    ) -> Ranking:
        """Search as the settings say.

        A filter that leaves a share of the documents widens the search by as much, so that as
        many of them are met; few documents are all scored. So are all, if it must be, until
        there are `k`.
        """
        assert self._codec is not None
        settings, count = self.settings, int(possible.sum())
        scored = max(settings.scored, 2 * k)
        rescored = max(settings.rescored, k) if settings.keep_tokens else 0
        candidates = max(settings.candidates, scored)
        most = len(self._codec.centroids)
        probes = min(most, settings.probes * len(possible) // count)
        effort = Effort(probes, candidates, scored, rescored, settings.margin * self._codec.spread)
        if count <= scored:
            return searcher.rank(query, np.flatnonzero(possible), effort)
        while True:
            positions, scores = searcher.search(query, effort, possible)
            if len(positions) >= k or effort.probes == most:
                return positions, scores
            effort = effort._replace(probes=min(most, 2 * effort.probes))

    def _write(self, version: Path) -> None:
        if self._codec is not None:
            save_arrays(version / "codec.safetensors", self._codec.arrays())
        for number, segment in enumerate(self._segments):
            save_arrays(version / f"segment-{number:06d}.safetensors", segment.arrays())

    def _read(self, version: Path) -> None:
        if (version / "codec.safetensors").is_file():
            self._codec = ResidualCodec.from_arrays(map_arrays(version / "codec.safetensors"))
        for path in sorted(version.glob("segment-*.safetensors")):
            self._segments.append(Segment.from_arrays(map_arrays(path)))


def _no_tokens() -> EncodedTokens:
    """Of documents that came before any token did, so that nothing was learned."""
    return EncodedTokens(
        np.empty(0, np.uint16), np.empty((0, 0), np.uint8), np.empty(0, np.float16)
    )


def _units(tokens: Floats) -> Floats:
    """The tokens scaled to unit length; zero vectors are left out, all but one if all are zero."""
    lengths = np.linalg.norm(tokens, axis=1)
    if not lengths.any():
        return np.eye(1, tokens.shape[1], dtype=np.float32)
    units: Floats = tokens[lengths > 0] / lengths[lengths > 0][:, None]
    return units
