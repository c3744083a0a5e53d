"""The exact index: every document is scored, by dot product or by MaxSim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ShapeError
from retrieval.indexing.index import Index, Ranking, top_k
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.saved_rows import SavedRows, check_rows
from retrieval.indexing.vectors import (
    check_multi_queries,
    check_multi_vectors,
    check_queries,
    check_vectors,
)
from retrieval.indexing.versions import Draft, Version

_CHUNK_TOKENS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ExactSettings:
    """Settings of the exact index; float16 halves the files and moves scores by about 1e-3."""

    dtype: Literal["float32", "float16"] = "float32"


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
        is_multi_vector = not isinstance(items, np.ndarray) or items.ndim == 3
        if self._is_multi_vector not in (None, is_multi_vector):
            raise ShapeError("this index holds single vectors or multi-vectors, not both")
        dtype = self.settings.dtype
        if is_multi_vector:
            checked = check_multi_vectors(ids, items, self._width, dtype)
            rows, lengths = np.concatenate(checked), [len(item) for item in checked]
        else:
            rows, lengths = check_vectors(ids, items, self._width, dtype), [1] * len(items)
        self._is_multi_vector, self._width = is_multi_vector, rows.shape[1]
        self._added.append(lengths, vectors=rows)

    def _search(self, queries: Any, k: int, mask: NDArray[np.bool_] | None) -> Iterator[Ranking]:
        assert self._width is not None
        score = self._maxsim if self._is_multi_vector else self._dot
        for row in score(queries, self._width):
            yield top_k(row, k, mask)

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
        return SavedRows(prefix=prefix, columns={"vectors": np.dtype(self.settings.dtype)})

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

    def _check(self, version: Path) -> None:
        if self._saved_rows:
            self._saved_rows.check(version)
