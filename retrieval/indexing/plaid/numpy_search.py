"""The stages of a search in NumPy: readable, and what runs where nothing was compiled.

Candidates come from the inverted lists, are ranked by their centroids alone, then by centroids and
residuals, then, where the tokens are kept, exactly; each stage passes fewer documents on.

Legend: M query tokens, K centroids, N documents of all segments, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.segment import Segment
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.ragged import rows_of

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]

DAMAGED = (
    "an index file names documents or centroids that are not there: it was damaged after it was "
    "written; `retrieval verify` says which, and the index has to be built again"
)
_STEP = 16
"""Documents that are scored before it is asked whether more are worth it."""
_CHUNK_DOCUMENTS = 16
"""Few enough that their residuals stay in the processor's cache until they are multiplied."""


class Effort(NamedTuple):
    """How far a search looks."""

    probes: int
    """Centroids that are looked at for each query token."""
    candidates: int
    """Documents that are ranked by their centroids."""
    scored: int
    """Documents that are ranked by centroids and residuals, at the most."""
    rescored: int
    """Documents that are scored exactly; 0 for none."""
    margin: float = math.inf
    """How far a token's centroid may score below the document's best one, for any query token, for
    the token to be scored by its residual; the others can hardly be a query token's best match."""
    wanted: int = 1
    """Hits that are asked for."""
    patience: float = math.inf
    """Scoring by residuals stops at a document that would have to gain so many standard deviations
    more than others have gained to come among the `wanted` best; at `scored` of them at the
    latest."""

    @property
    def scored_at_once(self) -> int:
        """Documents that are scored where scoring can't stop: about as many as it stops at."""
        if self.patience == math.inf:
            return self.scored
        return min(self.scored, max(500, 6 * self.wanted))


class NumpySearcher:
    """Searches segments that share a codec; positions count through all of them.

    Source: Santhanam et al. 2022, "PLAID", arXiv:2205.09707, with the estimate for what was not
    seen of XTR, arXiv:2304.01982, in the first stage.
    """

    def __init__(self, codec: ResidualCodec, segments: Sequence[Segment]) -> None:
        self.centroids = len(codec.centroids)
        self._codec = codec
        self._segments = list(segments)
        self._bases = np.cumsum([0, *(segment.documents for segment in segments)])

    def search(
        self, query_MD: Floats, effort: Effort, mask: Mask | None
    ) -> tuple[Positions, Floats]:
        """Rank documents that have a token at a probed centroid.

        Args:
            query_MD: (M, D), M at least 1.
            effort: bounds of the stages, each at least 1; `probes` at most K.
            mask: (N,) True for documents that may be found; None where all may.

        Returns:
            Positions, best first, and their scores, float32: as many as the last stage takes.
        """
        similarities_MK = query_MD @ self._codec.centroids.T
        found, gains = self.candidates(similarities_MK, effort.probes, mask)
        found = _best(found, gains, effort.candidates)
        # The same numbers, centroid after centroid, as the other stages go through them.
        similarities_MK = np.ascontiguousarray(similarities_MK.T).T
        may_stop = effort.patience < math.inf and len(found) > max(2 * _STEP, effort.wanted)
        if len(found) <= effort.scored and not may_stop:
            scores = self.residual_scores(query_MD, similarities_MK, found, effort.margin)
        else:
            by_centroids = self.centroid_scores(similarities_MK, found)
            order = np.argsort(-by_centroids, kind="stable")[: effort.scored]
            found = found[order]
            scores = self._score_while_hopeful(
                query_MD, similarities_MK, found, by_centroids[order], effort
            )
            found = found[: len(scores)]
        return self._finish(query_MD, found, scores, effort)

    def rank(
        self, query_MD: Floats, positions: Positions, effort: Effort
    ) -> tuple[Positions, Floats]:
        """Rank the documents at `positions`, ascending, each of which has a token.

        All of them are scored, and the best `effort.rescored` exactly.
        """
        similarities_MK = query_MD @ self._codec.centroids.T
        scores = self.residual_scores(query_MD, similarities_MK, positions, effort.margin)
        return self._finish(query_MD, positions, scores, effort)

    def _score_while_hopeful(
        self,
        query_MD: Floats,
        similarities_MK: Floats,
        ranked: Positions,
        by_centroids: Floats,
        effort: Effort,
    ) -> Floats:
        """Scores of the first of `ranked`, until the rest can hardly come among the best."""
        if effort.patience == math.inf:
            return self.residual_scores(query_MD, similarities_MK, ranked, effort.margin)
        scores = np.empty(len(ranked), np.float32)
        for done in range(0, len(ranked), _STEP):
            if done >= max(2 * _STEP, effort.wanted):
                gains = scores[:done] - by_centroids[:done]
                highest = by_centroids[done] + gains.mean() + effort.patience * gains.std()
                if highest < np.partition(scores[:done], -effort.wanted)[-effort.wanted]:
                    return scores[:done]
            part = slice(done, done + _STEP)
            scores[part] = self.residual_scores(
                query_MD, similarities_MK, ranked[part], effort.margin
            )
        return scores

    def _finish(
        self, query_MD: Floats, found: Positions, scores: Floats, effort: Effort
    ) -> tuple[Positions, Floats]:
        if effort.rescored and all(segment.tokens is not None for segment in self._segments):
            found = _best(found, scores, effort.rescored)
            scores = self.exact_scores(query_MD, found)
        order = np.lexsort((found, -scores))
        return found[order], scores[order]

    def candidates(
        self, similarities_MK: Floats, probes: int, mask: Mask | None
    ) -> tuple[Positions, Floats]:
        """The documents at one of the query tokens' best centroids, ascending, and estimates.

        A query token's part in a document's score is that of the document's best probed centroid.
        For a document at none of them it is that of the last centroid probed, which it can't
        exceed.
        """
        count, documents = similarities_MK.shape[1], int(self._bases[-1])
        best_MP = np.argpartition(similarities_MK, count - probes, axis=1)[:, count - probes :]
        gains = np.zeros(documents, np.float32)
        is_hit = np.zeros(documents, np.bool_)
        last = np.empty(documents, np.int64)
        floor = np.float32(0)
        for similarities_K, chosen in zip(similarities_MK, best_MP):
            ascending = chosen[np.argsort(similarities_K[chosen], kind="stable")]
            lowest = similarities_K[ascending[0]]
            floor += lowest
            for base, segment in zip(self._bases, self._segments):
                starts, ends = segment.lists.places(ascending)
                entries, _ = rows_of(starts, ends)
                numbers = segment.lists.documents[entries]
                if len(numbers) and not 0 <= numbers.min() <= numbers.max() < segment.documents:
                    raise IndexFilesError(DAMAGED)
                found = numbers + base
                scores = np.repeat(similarities_K[ascending], ends - starts)
                if mask is not None:
                    keep = mask[found]
                    found, scores = found[keep], scores[keep]
                # Of a document's entries the last one, the best, stays.
                places = np.arange(len(found))
                last[found] = places
                is_best = last[found] == places
                found, scores = found[is_best], scores[is_best]
                gains[found] += scores - lowest
                is_hit[found] = True
        hits = np.flatnonzero(is_hit)
        return hits, gains[hits] + floor

    def centroid_scores(self, similarities_MK: Floats, positions: Positions) -> Floats:
        """MaxSim where every token stands at its centroid."""
        similarities_KM = np.ascontiguousarray(similarities_MK.T)

        def best(segment: Segment, rows: Positions, starts: Positions) -> Floats:
            by_centroid = _of_codes(similarities_KM, segment.codes[rows])
            return _maxima(by_centroid, starts)

        return self._maxsim(positions, best)

    def residual_scores(
        self, query_MD: Floats, similarities_MK: Floats, positions: Positions, margin: float
    ) -> Floats:
        """MaxSim with the decoded tokens whose centroids come within `margin` of the best.

        A token's dot product is that of its centroid, which is there already, plus that of its
        residual, times its scale: the centroid's vector is never read.
        """
        similarities_KM = np.ascontiguousarray(similarities_MK.T)
        margins_M = margin * np.linalg.norm(query_MD, axis=1)

        def best(segment: Segment, rows: Positions, starts: Positions) -> Floats:
            by_centroid = _of_codes(similarities_KM, segment.codes[rows])
            if margin < math.inf:
                least = _maxima(by_centroid, starts) - margins_M
                lengths = np.diff(starts, append=len(rows))
                # At least one token of each document is near, even where files hold no numbers.
                is_near = (~(by_centroid < np.repeat(least, lengths, axis=0))).any(axis=1)
                rows, by_centroid = rows[is_near], by_centroid[is_near]
                starts = np.concatenate([[0], np.cumsum(is_near)])[starts]
            packed = np.take(segment.residuals, rows, axis=0)
            found = self._codec.residual_products(packed, query_MD)
            found += by_centroid
            found *= segment.scales[rows][:, None].astype(np.float32)
            return _maxima(found, starts)

        return self._maxsim(positions, best)

    def exact_scores(self, query_MD: Floats, positions: Positions) -> Floats:
        """MaxSim with the tokens that were kept."""

        def best(segment: Segment, rows: Positions, starts: Positions) -> Floats:
            assert segment.tokens is not None
            return _maxima(segment.tokens[rows].astype(np.float32) @ query_MD.T, starts)

        return self._maxsim(positions, best)

    def _maxsim(
        self, positions: Positions, best: Callable[[Segment, Positions, Positions], Floats]
    ) -> Floats:
        """Sum over query tokens the largest of each document's products.

        Args:
            positions: of documents.
            best: makes of a segment, some of its rows, and where documents start among them,
                (documents, M) largest products.
        """
        scores = np.empty(len(positions), np.float32)
        for segment, where, numbers in self._by_segment(positions):
            for at in range(0, len(numbers), _CHUNK_DOCUMENTS):
                part = numbers[at : at + _CHUNK_DOCUMENTS]
                rows, starts = rows_of(segment.offsets[part], segment.offsets[part + 1])
                largest = best(segment, rows, starts)
                scores[where[at : at + _CHUNK_DOCUMENTS]] = largest.sum(axis=1)
        return scores

    def _by_segment(self, positions: Positions) -> Iterator[tuple[Segment, Positions, Positions]]:
        """Each segment with the places in `positions` and the numbers in it of its documents."""
        owners = np.searchsorted(self._bases, positions, side="right") - 1
        for number, segment in enumerate(self._segments):
            where = np.flatnonzero(owners == number)
            if len(where):
                yield segment, where, positions[where] - self._bases[number]


def _maxima(products: Floats, starts: Positions) -> Floats:
    """(documents, M) the largest product of each document, whose rows start at `starts`."""
    largest: Floats = np.maximum.reduceat(products, starts, axis=0)
    return largest


def _of_codes(similarities_KM: Floats, codes: NDArray[np.integer]) -> Floats:
    try:
        return np.take(similarities_KM, codes, axis=0)
    except IndexError as error:
        raise IndexFilesError(DAMAGED) from error


def _best(positions: Positions, scores: Floats, count: int) -> Positions:
    """The `count` positions with the highest scores, in order of position."""
    if len(positions) <= count:
        return positions
    return np.sort(positions[np.argpartition(-scores, count)[:count]])
