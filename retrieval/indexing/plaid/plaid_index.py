"""The PLAID index: multi-vector documents as centroids and residuals of a few bits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.config import to_mapping
from retrieval.errors import ConfigError
from retrieval.indexing.batches import even_batches
from retrieval.indexing.index import Batch, Index, Ranking
from retrieval.indexing.plaid.codec import EncodedTokens, ResidualCodec
from retrieval.indexing.plaid.codec_file import CODEC, read_codec, save_codec
from retrieval.indexing.plaid.compaction import (
    live_tokens,
    no_longer_fits,
    residual_energy,
    save_encoded,
)
from retrieval.indexing.plaid.kmeans import (
    LazyCentroidSearch,
    Nearest,
    centroid_count,
    fit_centroids,
)
from retrieval.indexing.plaid.numpy_search import NumpySearcher
from retrieval.indexing.plaid.quality import SearchPlan, calibrate, ranking
from retrieval.indexing.plaid.searcher import (
    Searcher,
    encode_tokens,
    make_centroid_search,
    make_searcher,
)
from retrieval.indexing.plaid.segment import Segment, make_segment
from retrieval.indexing.plaid.segment_files import (
    PATTERN,
    check_segment,
    joined,
    map_segment,
    name_after,
    save_segments,
    segment_name,
)
from retrieval.indexing.plaid.settings import PlaidSettings
from retrieval.indexing.plaid.unfinished_build import Digest, UnfinishedBuild, pieces, total_tokens
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.sampling import RowSample
from retrieval.indexing.saved_rows import check_rows, first_merged
from retrieval.indexing.vectors import Vectors, check_multi_queries, check_multi_vectors
from retrieval.indexing.versions import Draft, Version
from retrieval.parallel import in_threads

logger = logging.getLogger(__name__)

_TOKENS_PER_CENTROID = 16
"""Tokens that a centroid is trained on; more of them cost time and gain nothing measurable."""
_ENCODED_AT_ONCE = 1 << 16
_JOINED_TOKENS = 1 << 18
"""Segments in memory are joined up to so many tokens: more save no search and cost copies."""
_FLUSHED_TOKENS = 1 << 19
"""A build holds so many encoded tokens in memory: 40 MB of 4 bits at width 128."""


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
        self._energy: float | None = None
        """Of the residuals when the codec was new; None while it is."""
        self._nearest: LazyCentroidSearch | None = None
        self._segments: list[Segment] = []
        """The saved ones, then those that were added since."""
        self._names: list[str] = []
        """The files of the saved ones."""
        self._mapped = 0
        """So many of the segments are in files."""
        self._encoded_rows = 0
        """Of a build that goes on: so many rows are in segments already."""
        self._searcher: tuple[Searcher, NDArray[np.bool_]] | None = None
        self._searched_by: str | None = None
        """The engine that was asked for when the searcher was made."""
        self._making = threading.Lock()

    def _build(self, batches: Iterable[Batch[Sequence[Vectors]]]) -> None:
        """Learn and encode, with no more tokens in memory than the settings say.

        Segments of some 500,000 tokens go to disk. Where the same build was killed, those that are
        there are taken as they are.
        """
        batches = list(batches) if iter(batches) is batches else batches
        digest = Digest()
        sample = self._sample(digest.over(even_batches(batches)))
        assert self.folder is not None, "a build has a folder"
        model = self.model.fingerprint if self.model else None
        plan = {"settings": to_mapping(self.settings), "model": model, "of": digest.hexdigest()}
        unfinished = UnfinishedBuild(self.folder / "versions", plan)
        codec = unfinished.path / CODEC
        if unfinished.is_resumed and codec.is_file():
            self._codec, _ = read_codec(codec)
        else:
            self._codec = self._train(sample)
            if self._codec is not None:
                save_codec(codec, self._codec, 0.0)
        del sample
        self._segments = [map_segment(path, self._codec) for path in unfinished.segments()]
        self._encoded_rows = sum(segment.documents for segment in self._segments)
        if self._encoded_rows:
            logger.info("%s: %d documents were encoded before", self.folder, self._encoded_rows)
        self._mapped = len(self._segments)
        for batch in pieces(batches, _ENCODED_AT_ONCE):
            self.add(batch.ids, batch.items, documents=batch.documents)
            if total_tokens(self._segments[self._mapped :]) >= _FLUSHED_TOKENS:
                path = unfinished.path / segment_name(self._mapped + 1)
                save_segments(path, self._segments[self._mapped :])
                self._segments[self._mapped :] = [map_segment(path, self._codec)]
                self._mapped += 1

    def _learn(self, batches: Iterable[Batch[Sequence[Vectors]]]) -> None:
        self._codec = self._train(self._sample(batches))

    def _sample(self, batches: Iterable[Batch[Sequence[Vectors]]]) -> RowSample:
        sample = RowSample(self.settings.sample_tokens, self.settings.seed)
        width = None
        for batch in batches:
            for each, item in zip(batch.ids, batch.items):
                (checked,) = check_multi_vectors([each], [item], width)
                width = checked.shape[1]
                if len(checked):
                    sample.add(checked)
        return sample

    def _train(self, sample: RowSample) -> ResidualCodec | None:
        """Learn centroids and residual values; None from no tokens."""
        if not sample.seen:
            return None
        settings = self.settings
        tokens = _units(sample.rows())
        count = centroid_count(settings.centroids, sample.seen, len(tokens))
        trained_on = np.linspace(
            0, len(tokens) - 1, min(len(tokens), count * _TOKENS_PER_CENTROID)
        ).astype(np.int64)
        tokens = tokens[trained_on]
        search = self._centroid_search
        centroids = fit_centroids(
            tokens, count, iterations=settings.iterations, seed=settings.seed, search=search
        )
        codes = search(centroids).nearest(tokens)
        logger.info("%d centroids from %d of %d tokens", count, len(tokens), sample.seen)
        return ResidualCodec.fit(centroids, tokens, codes, settings.bits)

    def _append(self, ids: Sequence[str], items: Sequence[Vectors]) -> None:
        if self._storage.ids.rows < self._encoded_rows:
            return
        checked = check_multi_vectors(ids, items, self._codec.width if self._codec else None)
        lengths = [len(item) for item in checked]
        if self._codec is None:
            self._learn([Batch(ids, checked)])
        if self._codec is None:
            self._add_segment(make_segment(lengths, _no_tokens()))
            return
        tokens = np.concatenate(checked)
        if self._nearest is None:
            self._nearest = LazyCentroidSearch(self._codec.centroids)
        self._nearest.expect(len(tokens), self._centroid_search)
        encoded = self._encode(self._codec, self._nearest, tokens)
        kept = tokens if self.settings.keep_tokens else None
        self._add_segment(make_segment(lengths, encoded, kept))

    def _centroid_search(self, centroids: Floats) -> Nearest:
        return make_centroid_search(centroids, self.settings.engine, self._threads)

    def _encode(self, codec: ResidualCodec, nearest: Nearest, tokens: Floats) -> EncodedTokens:
        # The nearest centroid depends on the direction alone, so that lengths need no division.
        codes = nearest.nearest(tokens)
        return encode_tokens(codec, tokens, codes, self.settings.engine, self._threads)

    def _add_segment(self, segment: Segment) -> None:
        """Add documents, and join them with those before that are no more and not saved."""
        added = self._segments[self._mapped :]
        sizes = [len(each.codes) for each in added]
        first = first_merged(sizes, len(segment.codes), limit=_JOINED_TOKENS)
        if first < len(added):
            segment = joined([*added[first:], segment])
        self._segments[self._mapped + first :] = [segment]
        self._searcher = None

    def _search(
        self, queries: Sequence[Vectors], k: int, mask: NDArray[np.bool_] | None
    ) -> Iterator[Ranking]:
        if self._codec is None:
            for _ in queries:
                yield np.empty(0, np.int64), np.empty(0, np.float32)
            return
        searcher, has_tokens = self._ready()
        possible = has_tokens if mask is None else has_tokens & mask
        count = int(np.count_nonzero(possible))
        effort = self.settings.effort(k, self._codec.spread, count)
        # Few of the documents are met where a filter leaves few of them.
        wider = effort.probes * len(possible) // max(1, count)
        effort = effort._replace(probes=min(len(self._codec.centroids), wider))
        allowed = None if count == len(possible) else possible
        few = np.flatnonzero(possible) if count <= effort.scored_at_once else None
        plan = SearchPlan(effort, few, allowed, min(k, count))
        checked = check_multi_queries(queries, self._codec.width)
        yield from self._rankings(searcher, checked, plan)

    def _rankings(
        self, searcher: Searcher, queries: Sequence[Floats], plan: SearchPlan
    ) -> Iterator[Ranking]:
        threads = 1 if isinstance(searcher, NumpySearcher) else self._threads
        yield from in_threads(partial(ranking, searcher, plan), queries, threads)

    def _ready(self) -> tuple[Searcher, NDArray[np.bool_]]:
        """What searches, and which documents have tokens."""
        assert self._codec is not None
        # Of several threads that search first, one makes it.
        with self._making:
            if self._searcher is None or self._searched_by != self.settings.engine:
                filled = [np.diff(segment.offsets) > 0 for segment in self._segments]
                self._searcher = self._make_searcher(self._codec), np.concatenate(filled)
                self._searched_by = self.settings.engine
            return self._searcher

    def _make_searcher(self, codec: ResidualCodec) -> Searcher:
        return make_searcher(codec, self._segments, self.settings.engine)

    @property
    def _threads(self) -> int | None:
        threads: int | str = self.settings.threads
        return None if isinstance(threads, str) else threads

    def calibrate(
        self, queries: Sequence[Vectors], *, k: int = 10, recall: float = 0.95
    ) -> PlaidSettings:
        """Find the cheapest settings whose mean recall of the best `k` reaches `recall`.

        They are the index's settings from now on, and are saved by `save`. Unlike a level of
        quality they stay as they are when the index grows: calibrate again then.

        Args:
            queries: each (M, D), like those to come; some 50 of them.
            k: hits that are wanted.
            recall: the share of the truly best that is to be found: by exact scores with
                `keep_tokens`, else by the scores of the compressed tokens.

        Returns:
            The settings; the most thorough ones where none reaches the recall.

        Raises:
            ConfigError: `recall` out of range, or no query or document with tokens.
        """
        if self._codec is None or not len(self):
            raise ConfigError("an index without documents can't be calibrated")
        searcher, has_tokens = self._ready()
        live = self._storage.ids.live
        effort = calibrate(
            searcher,
            [each for each in check_multi_queries(queries, self._codec.width) if len(each)],
            has_tokens if live is None else has_tokens & live,
            k=k,
            recall=recall,
            spread=self._codec.spread,
            most_probes=len(self._codec.centroids),
            has_tokens=self.settings.keep_tokens,
        )
        calibrated: PlaidSettings = self.settings.with_effort(effort, self._codec.spread)
        self.settings = calibrated
        return calibrated

    def _write(self, draft: Draft) -> None:
        if self._energy is not None:
            draft.keep(CODEC)
        elif self._codec is not None:
            energy = residual_energy(self._codec, self._segments)
            save_codec(draft.path / CODEC, self._codec, energy)
        saved = len(self._names)
        sizes = [len(segment.codes) for segment in self._segments]
        added = sum(sizes[saved:])
        first = first_merged(sizes[:saved], added) if len(self._segments) > saved else saved
        for name in self._names[:first]:
            draft.keep(name)
        if len(self._segments) > saved:
            save_segments(draft.path / name_after(self._names), self._segments[first:])

    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        if not live.any():
            return
        bounds = np.cumsum([segment.documents for segment in self._segments])[:-1]
        masks = np.split(live, bounds)
        if self._codec is not None and self._should_learn_anew(self._codec, masks):
            self._write_learned_anew(draft, self._codec, masks)
            return
        if self._codec is not None:
            draft.keep(CODEC)
        save_segments(draft.path / name_after(self._names), self._segments, masks)

    def _should_learn_anew(self, codec: ResidualCodec, masks: list[NDArray[np.bool_]]) -> bool:
        assert self._energy is not None, "only what was saved is compacted"
        lengths = [np.diff(segment.offsets) for segment in self._segments]
        tokens = sum(int(each[mask].sum()) for each, mask in zip(lengths, masks))
        sampled = min(tokens, self.settings.sample_tokens)
        if not sampled or (self.settings.centroids != "auto" and self.settings.centroids > sampled):
            return False
        count = centroid_count(self.settings.centroids, tokens, sampled)
        return no_longer_fits(codec, self._energy, self._segments, count)

    def _write_learned_anew(
        self, draft: Draft, old: ResidualCodec, masks: list[NDArray[np.bool_]]
    ) -> None:
        """Write the documents that are left, encoded by what is learned from them."""
        sample = RowSample(self.settings.sample_tokens, self.settings.seed)
        for _, tokens in live_tokens(old, self._segments, masks):
            sample.add(tokens)
        codec = self._train(sample)
        del sample
        if codec is None:
            save_segments(draft.path / name_after(self._names), self._segments, masks)
            return
        nearest = self._centroid_search(codec.centroids)
        energy = save_encoded(
            draft.path / name_after(self._names),
            codec,
            live_tokens(old, self._segments, masks),
            partial(self._encode, codec, nearest),
            keep_tokens=self.settings.keep_tokens,
        )
        save_codec(draft.path / CODEC, codec, energy)

    def _saved(self, version: Version) -> None:
        if self._energy is None:
            self._read(version)
        else:  # the codec is as it was, and what finds its centroids
            self._map(version)

    def _read(self, version: Version) -> None:
        self._codec = self._energy = self._nearest = None
        if CODEC in version.files:
            self._codec, self._energy = read_codec(version.path / CODEC)
        self._map(version)

    def _map(self, version: Version) -> None:
        self._searcher = None
        self._encoded_rows = 0
        self._names = [name for _, name in version.numbered(PATTERN)]
        self._segments = [map_segment(version.path / name, self._codec) for name in self._names]
        self._mapped = len(self._segments)
        rows = sum(segment.documents for segment in self._segments)
        check_rows(version.path, range(rows), self._storage.ids.rows)

    def _check(self, version: Path) -> None:
        centroids = len(self._codec.centroids) if self._codec else 0
        for name, segment in zip(self._names, self._segments):
            check_segment(version / name, segment, centroids)


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
