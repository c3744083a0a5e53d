"""The exact index: every document is scored, by dot product or by MaxSim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ShapeError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.index import Index, Ranking, top_k
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.vectors import (
    check_multi_queries,
    check_multi_vectors,
    check_queries,
    check_vectors,
)

_CHUNK_TOKENS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ExactSettings:
    """Settings of the exact index; float16 halves the files and moves scores by about 1e-3."""

    dtype: Literal["float32", "float16"] = "float32"


class ExactIndex(Index[Any]):
    """Scores every document: (N, D) vectors by dot product, N arrays (tokens, D) by MaxSim.

    All rows live in one array of vectors; a multi-vector document is a run of its rows, a
    single-vector one is a run of one. A document without tokens is never found, and a query
    without tokens finds nothing.
    """

    kind = "exact"
    settings_type = ExactSettings

    def __init__(self, settings: ExactSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._rows = RaggedRows()
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
        self._rows.append(lengths, vectors=rows)

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
        offsets = self._rows.offsets
        scores = np.full((len(checked), len(offsets) - 1), -np.inf, np.float32)
        for documents, chunk in self._chunks():
            starts = offsets[documents[:-1]] - offsets[documents[0]]
            filled = np.diff(offsets[documents]) > 0
            if not filled.any():
                continue
            targets = documents[:-1][filled]
            for row, query in enumerate(checked):
                if len(query):
                    best = np.maximum.reduceat(query @ chunk.T, starts[filled], axis=1)
                    scores[row, targets] = best.sum(axis=0)
        return scores

    def _chunks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield (document boundaries, float32 rows) of about 65,536 rows each."""
        vectors, offsets = self._rows["vectors"], self._rows.offsets
        first = 0
        while first < len(offsets) - 1:
            limit = offsets[first] + _CHUNK_TOKENS
            last = max(first + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
            yield (
                np.arange(first, last + 1),
                vectors[offsets[first] : offsets[last]].astype(np.float32),
            )
            first = last

    def _write(self, version: Path) -> None:
        flag = np.array([bool(self._is_multi_vector)])
        save_arrays(
            version / "vectors.safetensors", {**self._rows.arrays(), "is_multi_vector": flag}
        )

    def _read(self, version: Path) -> None:
        arrays = map_arrays(version / "vectors.safetensors")
        is_multi_vector = bool(arrays.pop("is_multi_vector")[0])
        self._rows = RaggedRows.from_arrays(arrays)
        if len(self._ids):
            self._is_multi_vector = is_multi_vector
            self._width = self._rows["vectors"].shape[1]
