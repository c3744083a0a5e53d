"""The exact index: every document is scored, by dot product or by MaxSim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexFilesError, ShapeError
from retrieval.indexing.index import Index, Ranking, top_k
from retrieval.indexing.native_maxsim import is_supported, maxsim_bounds, maxsim_of_runs
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.rounded_tokens import RoundedTokens, round_tokens
from retrieval.indexing.saved_rows import SavedRows, check_rows
from retrieval.indexing.vectors import (
    as_array,
    check_multi_queries,
    check_multi_vectors,
    check_queries,
    check_vectors,
)
from retrieval.indexing.versions import Draft, Version

_CHUNK_TOKENS = 1 << 16


Numbers = NDArray[np.int64]
Scan = Literal["auto", "int8", "none"]


@dataclass(frozen=True, kw_only=True)
class ExactSettings:
    """Settings of the exact index.

    Attributes:
        dtype: float16 halves the files and moves scores by about 1e-3.
        scan: "int8" keeps the tokens as bytes too, a third more than float16, whose products tell
            which documents can't be among the best: the same hits and scores, several times
            sooner. "auto" is "int8" for multi-vectors where the compiled library takes them.
        threads: that share the documents of one search; "auto" is one for each processor.
    """

    dtype: Literal["float32", "float16"] = "float32"
    scan: Scan = "auto"
    threads: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.scan not in get_args(Scan):
            raise ConfigError(f"scan is {self.scan!r}, expected one of {get_args(Scan)}")
        if self.threads != "auto" and (isinstance(self.threads, str) or self.threads < 1):
            raise ConfigError(f'threads is {self.threads!r}, expected at least 1 or "auto"')


class ExactIndex(Index[Any]):
    """Scores every document: (N, D) vectors by dot product, N arrays (tokens, D) by MaxSim.

    All rows are vectors; a multi-vector document is a run of them, a single-vector one is a run of
    one. Files that start with "vectors" have the one sort, those with "tokens" the other. A
    document without tokens is never found, and a query without tokens finds nothing.
    """

    kind = "exact"
    settings_type = ExactSettings

    def __init__(self, settings: ExactSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._saved_rows: SavedRows | None = None
        self._added = RaggedRows()
        self._is_multi_vector: bool | None = None
        self._width: int | None = None

    def _append(self, ids: Sequence[str], items: Any) -> None:
        if not isinstance(items, Sequence):
            items = as_array(items)
        is_multi_vector = not isinstance(items, np.ndarray) or items.ndim == 3
        if self._is_multi_vector not in (None, is_multi_vector):
            raise ShapeError("this index holds single vectors or multi-vectors, not both")
        dtype = self.settings.dtype
        if is_multi_vector:
            checked = check_multi_vectors(ids, items, self._width, dtype)
            rows, lengths = np.concatenate(checked), [len(item) for item in checked]
        else:
            rows, lengths = check_vectors(ids, items, self._width, dtype), [1] * len(items)
        if self._is_multi_vector is None:
            scan = _resolved(self.settings.scan, is_multi_vector, rows.shape[1])
            self.settings = replace(self.settings, scan=scan)
        self._is_multi_vector, self._width = is_multi_vector, rows.shape[1]
        columns: dict[str, NDArray[Any]] = {"vectors": rows}
        if self.settings.scan == "int8":
            columns |= round_tokens(rows)._asdict()
        self._added.append(lengths, **columns)

    def _search(self, queries: Any, k: int, mask: NDArray[np.bool_] | None) -> Iterator[Ranking]:
        assert self._width is not None
        if self._is_multi_vector and is_supported(self._width):
            for query in check_multi_queries(queries, self._width):
                yield self._rank(query, k, mask)
            return
        score = self._maxsim if self._is_multi_vector else self._dot
        for row in score(queries, self._width):
            yield top_k(row, k, mask)

    def _rank(self, query: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None) -> Ranking:
        """The best `k` documents, through the compiled library."""
        if not len(query):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        threads = None if self.settings.threads == "auto" else self.settings.threads

        def score(part: RaggedRows, starts: Numbers, ends: Numbers) -> NDArray[np.float32]:
            return maxsim_of_runs(query, part["vectors"], starts, ends, threads)

        def bound(part: RaggedRows, starts: Numbers, ends: Numbers) -> NDArray[np.float32]:
            rounded = RoundedTokens(*(part[name] for name in RoundedTokens._fields))
            return maxsim_bounds(query, rounded, starts, ends, threads)

        positions = np.arange(self._storage.ids.rows) if mask is None else np.flatnonzero(mask)
        if self.settings.scan == "int8" and len(positions) > k:
            bounds = self._of_documents(bound, positions)
            is_likely = np.zeros(len(bounds), np.bool_)
            is_likely[np.argpartition(bounds, len(bounds) - k)[-k:]] = True
            scores = self._of_documents(score, positions[is_likely])
            # k documents reach the least of these scores: what stays below it is not among the
            # best k, and what does reach it may be.
            is_possible = bounds >= scores.min()
            positions = positions[is_possible | is_likely]
        best, scores = top_k(self._of_documents(score, positions), k, None)
        return positions[best], scores

    def _of_documents(
        self, score: Callable[..., NDArray[np.float32]], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """`score(part, first rows, rows behind the last)` of the documents at these positions.

        Args:
            score: called for each part.
            positions: ascending.
        """
        parts = self._parts()
        starts = np.cumsum([0, *map(len, parts)])
        cuts = np.searchsorted(positions, starts)
        scores = np.empty(len(positions), np.float32)
        for part, start, first, last in zip(parts, starts, cuts, cuts[1:]):
            numbers = positions[first:last] - start
            scores[first:last] = score(part, part.offsets[numbers], part.offsets[numbers + 1])
        return scores

    def _dot(self, queries: Any, width: int) -> NDArray[np.float32]:
        stacked = check_queries(queries, width)
        parts = [stacked @ chunk.T for _, chunk in self._chunks()]
        return np.concatenate(parts, axis=1)

    def _maxsim(self, queries: Any, width: int) -> NDArray[np.float32]:
        checked = check_multi_queries(queries, width)
        scores = np.full((len(checked), sum(map(len, self._parts()))), -np.inf, np.float32)
        first = 0
        for offsets, chunk in self._chunks():
            is_filled = np.diff(offsets) > 0
            targets = first + np.flatnonzero(is_filled)
            first += len(offsets) - 1
            if not len(targets):
                continue
            starts = offsets[:-1][is_filled]
            for row, query in enumerate(checked):
                if len(query):
                    best = np.maximum.reduceat(query @ chunk.T, starts, axis=1)
                    scores[row, targets] = best.sum(axis=0)
        return scores

    def _chunks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield (offsets from 0, float32 rows) of about 65,536 rows each, document by document."""
        for part in self._parts():
            vectors, offsets = part["vectors"], part.offsets
            first = 0
            while first < len(part):
                limit = offsets[first] + _CHUNK_TOKENS
                last = max(first + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
                rows = slice(offsets[first], offsets[last])
                yield (
                    offsets[first : last + 1] - offsets[first],
                    vectors[rows].astype(np.float32, copy=False),
                )
                first = last

    def _parts(self) -> list[RaggedRows]:
        saved = self._saved_rows.parts if self._saved_rows else []
        return [*saved, self._added] if len(self._added) else saved

    def _rows_by(self, is_multi_vector: bool | None) -> SavedRows:
        prefix = "tokens" if is_multi_vector else "vectors"
        columns = {"vectors": np.dtype(self.settings.dtype)}
        if is_multi_vector and self.settings.scan == "int8":
            columns |= dict.fromkeys(RoundedTokens._fields, np.dtype(np.float32))
            columns["codes"] = np.dtype(np.uint8)
        return SavedRows(prefix=prefix, columns=columns)

    def _write(self, draft: Draft) -> None:
        saved = self._saved_rows or self._rows_by(self._is_multi_vector)
        saved.write(draft, self._added)

    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        if self._saved_rows:
            self._saved_rows.write_compacted(draft, live)

    def _read(self, version: Version) -> None:
        self._saved_rows, self._added = None, RaggedRows()
        self._is_multi_vector = self._width = None
        for is_multi_vector in (False, True):
            saved = self._rows_by(is_multi_vector).opened(version)
            if len(saved):
                self._saved_rows, self._is_multi_vector = saved, is_multi_vector
                self._width = saved.row_shape("vectors", version.path)[0]
        check_rows(version.path, self._saved_rows, self._storage.ids.rows)
        if self._saved_rows and self._is_multi_vector:
            # The library goes where offsets and widths send it.
            self._saved_rows.check(version.path)
            if self.settings.scan == "auto":
                # Written before there was a scan.
                self.settings = replace(self.settings, scan="none")
            if self.settings.scan == "int8":
                _check_rounded(self._saved_rows, self._width, version.path)

    def _check(self, version: Path) -> None:
        if self._saved_rows:
            self._saved_rows.check(version)


def _resolved(scan: Scan, is_multi_vector: bool, width: int) -> Scan:
    """Whether tokens are kept as bytes too.

    Raises:
        ConfigError: they must be and can't.
    """
    if scan == "int8" and not (is_multi_vector and width % 8 == 0):
        what = f"multi-vectors {width} wide" if is_multi_vector else "single vectors"
        raise ConfigError(
            f'scan "int8" is for multi-vectors whose width is a multiple of 8, not {what}: '
            'take "auto" or "none"'
        )
    if scan == "auto":
        return "int8" if is_multi_vector and is_supported(width) else "none"
    return scan


def _check_rounded(saved: SavedRows, width: int | None, folder: Path) -> None:
    """Raise IndexFilesError where the bytes are not those of the vectors."""
    if saved.row_shape("codes", folder) != (width,):
        raise IndexFilesError(f"{folder}: codes of another width than vectors: rebuild the index")
    for name in RoundedTokens._fields[1:]:
        if any(part[name].ndim != 1 for part in saved.parts):
            raise IndexFilesError(f"{folder}: {name} of more than one axis: rebuild the index")
