"""The PLAID index: multi-vector documents as centroids and residuals of a few bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.index import Batch, Index, Ranking
from retrieval.indexing.plaid.codec import Floats, ResidualCodec
from retrieval.indexing.plaid.inverted import InvertedLists, invert
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.search import maxsim, probe
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.sampling import RowSample
from retrieval.indexing.vectors import Vectors, check_multi_queries, check_multi_vectors

logger = logging.getLogger(__name__)

_TOKENS_PER_CENTROID = 16
"""Tokens that a centroid is trained on; more of them cost time and gain nothing measurable."""
_QUERIES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class PlaidSettings:
    """Settings of the PLAID index.

    Attributes:
        bits: of each component of a residual: 4 keeps the ranking, 2 halves the files.
        centroids: how many; "auto" is the power of two nearest 16 * sqrt(tokens), as in PLAID,
            and at most a quarter of the sampled tokens.
        probes: centroids that are looked at for each query token.
        candidates: documents whose residuals are scored; never fewer than 2 * k.
        sample_tokens: tokens that are held in memory to learn from.
        iterations: rounds of k-means.
        seed: of the sample and of k-means.
    """

    bits: Literal[1, 2, 4, 8] = 4
    centroids: int | Literal["auto"] = "auto"
    probes: int = 64
    candidates: int = 384
    sample_tokens: int = 1 << 19
    iterations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4, 8):
            raise ConfigError(f"bits is {self.bits}, expected 1, 2, 4 or 8")
        if self.centroids != "auto" and (isinstance(self.centroids, str) or self.centroids < 1):
            raise ConfigError(f'centroids is {self.centroids!r}, expected at least 1 or "auto"')
        for name in ("probes", "candidates", "sample_tokens", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
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
        self._nearest: CentroidSearch | None = None
        self._tokens = RaggedRows()
        self._lists: InvertedLists | None = None

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
        centroids = fit_centroids(tokens, count, iterations=settings.iterations, seed=settings.seed)
        codes, _ = CentroidSearch(centroids).nearest(tokens)
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
            self._tokens.append(lengths)
            return
        if self._nearest is None:
            self._nearest = CentroidSearch(self._codec.centroids)
        tokens = np.concatenate(checked)
        # The nearest centroid depends on the direction alone, so that lengths need no division.
        codes, _ = self._nearest.nearest(tokens)
        self._tokens.append(lengths, **self._codec.encode(tokens, codes)._asdict())
        self._lists = None

    def _search(
        self, queries: Sequence[Vectors], k: int, mask: NDArray[np.bool_] | None
    ) -> Iterator[Ranking]:
        if self._codec is None:
            for _ in queries:
                yield np.empty(0, np.int64), np.empty(0, np.float32)
            return
        checked = check_multi_queries(queries, self._codec.width)
        for at in range(0, len(checked), _QUERIES_AT_ONCE):
            window = checked[at : at + _QUERIES_AT_ONCE]
            similarities = np.concatenate(window) @ self._codec.centroids.T
            bounds = np.cumsum([len(query) for query in window])[:-1]
            for query, part in zip(window, np.split(similarities, bounds)):
                yield self._search_one(query, part, k, mask)

    def _search_one(
        self, query: Floats, similarities: Floats, k: int, mask: NDArray[np.bool_] | None
    ) -> Ranking:
        assert self._codec is not None
        chosen = self._candidates(similarities, k, mask) if len(query) else np.empty(0, np.int64)
        scores = maxsim(query, similarities, chosen, self._tokens, self._codec)
        order = np.argsort(-scores, kind="stable")[:k]
        return chosen[order], scores[order]

    def _candidates(
        self, similarities: Floats, k: int, mask: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """The documents whose residuals are worth a look, in order of position.

        A filter that leaves a share of the documents widens the search by as much, so that as
        many of them are met; few documents are all looked at. So are all, if it must be, until
        there are `k`.
        """
        has_tokens = np.diff(self._tokens.offsets) > 0
        possible = has_tokens if mask is None else has_tokens & mask
        count = int(possible.sum())
        wanted = max(self.settings.candidates, 2 * k)
        if count <= wanted:
            return np.flatnonzero(possible)
        most = similarities.shape[1]
        probes = min(most, self.settings.probes * len(possible) // count)
        while True:
            found, scores = probe(
                similarities,
                self._current_lists(),
                probes=probes,
                documents=len(possible),
                mask=mask,
            )
            if len(found) >= k or probes == most:
                break
            probes = min(most, 2 * probes)
        if len(found) > wanted:
            found = np.sort(found[np.argpartition(-scores, wanted)[:wanted]])
        return found

    def _current_lists(self) -> InvertedLists:
        if self._lists is None:
            assert self._codec is not None
            codes, offsets = self._tokens["codes"], self._tokens.offsets
            self._lists = invert(codes, offsets, len(self._codec.centroids))
        return self._lists

    def _write(self, version: Path) -> None:
        arrays = self._tokens.arrays()
        if self._codec is not None:
            lists = self._current_lists()
            arrays |= {
                "centroids": self._codec.centroids.astype(np.float16),
                "values": self._codec.values,
                "list_starts": lists.starts,
                "list_documents": lists.documents,
            }
        save_arrays(version / "plaid.safetensors", arrays)

    def _read(self, version: Path) -> None:
        arrays = map_arrays(version / "plaid.safetensors")
        if "centroids" in arrays:
            self._codec = ResidualCodec(
                centroids=arrays.pop("centroids").astype(np.float32),
                values=np.array(arrays.pop("values")),
            )
            self._lists = InvertedLists(arrays.pop("list_starts"), arrays.pop("list_documents"))
        self._tokens = RaggedRows.from_arrays(arrays)


def _units(tokens: Floats) -> Floats:
    """The tokens scaled to unit length; zero vectors are left out, all but one if all are zero."""
    lengths = np.linalg.norm(tokens, axis=1)
    if not lengths.any():
        return np.eye(1, tokens.shape[1], dtype=np.float32)
    units: Floats = tokens[lengths > 0] / lengths[lengths > 0][:, None]
    return units
