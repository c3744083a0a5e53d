"""The stages of a search through the compiled library; the same answers as `numpy_search`.

Each search runs on the thread that asks for it and lets other Python threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import native
from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.indexing.plaid.codec import ResidualCodec, code_type
from retrieval.indexing.plaid.native_build import matrix_of_directions
from retrieval.indexing.plaid.numpy_search import (
    DAMAGED,
    Effort,
    Mask,
    NumpySearcher,
    Positions,
)
from retrieval.indexing.plaid.segment import Segment
from retrieval.indexing.plaid.values import Floats

logger = logging.getLogger(__name__)

STAGES = ("centroids", "probes", "candidates", "by centroids", "by residuals", "exact")

_ROWS = 8
"""Rows that the library multiplies at a time."""
_MOST_QUERY_TOKENS = 1 << 12
"""That the library can tell apart."""
_DAMAGED, _OUT_OF_MEMORY = -1, -2
"""What it returns in place of a count."""


class _Codec(ctypes.Structure):
    _fields_ = (
        ("centroids", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("components", ctypes.c_int32),
        ("value_scale", ctypes.c_float),
        ("bytes", ctypes.c_void_p),
        ("byte_scales", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("directions", ctypes.c_void_p),
        ("first_values", ctypes.c_void_p),
    )


class _Segment(ctypes.Structure):
    _fields_ = (
        ("first_position", ctypes.c_int64),
        ("documents", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("residuals", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("list_of", ctypes.c_void_p),
        ("list_starts", ctypes.c_void_p),
        ("list_documents", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("token_count", ctypes.c_int64),
        ("entry_count", ctypes.c_int64),
    )


class _View(ctypes.Structure):
    _fields_ = (
        ("codec", ctypes.POINTER(_Codec)),
        ("segments", ctypes.POINTER(_Segment)),
        ("segment_count", ctypes.c_int32),
        ("code_bytes", ctypes.c_int32),
        ("documents", ctypes.c_int64),
    )


class _Effort(ctypes.Structure):
    _fields_ = (
        ("probes", ctypes.c_int32),
        ("candidates", ctypes.c_int32),
        ("scored", ctypes.c_int32),
        ("rescored", ctypes.c_int32),
        ("margin", ctypes.c_float),
        ("wanted", ctypes.c_int32),
        ("patience", ctypes.c_float),
    )


class Stages(ctypes.Structure):
    """What searches did, added up: nanoseconds by stage, documents touched, scored, rescored."""

    _fields_ = (
        ("nanoseconds", ctypes.c_int64 * len(STAGES)),
        ("touched", ctypes.c_int64),
        ("scored", ctypes.c_int64),
        ("rescored", ctypes.c_int64),
    )


class NativeSearcher:
    """Searches segments that share a codec; positions count through all of them.

    Products are of bytes: of a score up to 32, a sum of 32 cosines, some 0.01 is rounding.

    A query of more than 4,096 tokens is searched in NumPy.
    """

    def __init__(self, codec: ResidualCodec, segments: Sequence[Segment]) -> None:
        self.centroids = len(codec.centroids)
        self._segments = [_contiguous(segment) for segment in segments]
        self._slow = NumpySearcher(codec, self._segments)
        self._rows, self._row_scales = _to_bytes(codec.centroids)
        values = [section.values for section in codec.sections]
        largest = float(np.abs(np.concatenate(values)).max())
        # At 8 bits the values are evenly spaced, and a number is its own byte.
        scale = float(codec.values[255]) / 127 if codec.bits == 8 else max(largest, 1e-6) / 127
        tables = [(np.rint(each / scale) + 128).astype(np.uint8) for each in values]
        self._first_values = tables[0] if codec.principal else None
        self._values = tables[-1]
        principal = codec.principal
        self._directions = (
            None if principal is None else matrix_of_directions(principal.directions.T)
        )
        self._codec = _Codec(
            len(codec.centroids),
            codec.width,
            codec.bits,
            sum(section.components for section in codec.sections),
            scale,
            self._rows.ctypes.data,
            self._row_scales.ctypes.data,
            self._values.ctypes.data,
            _address(self._directions),
            _address(self._first_values),
        )
        self._list_of = [_list_of(each, len(codec.centroids)) for each in self._segments]
        structures, first = [], 0
        for segment, list_of in zip(self._segments, self._list_of):
            structures.append(_structure(segment, list_of, first))
            first += segment.documents
        self._structures = (_Segment * len(structures))(*structures)
        code_bytes = np.dtype(code_type(len(codec.centroids))).itemsize
        self._view = _View(
            ctypes.pointer(self._codec), self._structures, len(structures), code_bytes, first
        )
        self._search = native.loaded().retrieval_plaid_search
        self._rank = native.loaded().retrieval_plaid_rank
        self._search.restype = self._rank.restype = ctypes.c_int64

    def search(
        self,
        query_MD: Floats,
        effort: Effort,
        mask: Mask | None,
        stages: Stages | None = None,
    ) -> tuple[Positions, Floats]:
        """As `NumpySearcher.search`; `stages` gets what was done added to it."""
        if _is_too_long(query_MD):
            return self._slow.search(query_MD, effort, mask)
        query_MD = np.ascontiguousarray(query_MD, np.float32)
        effort = _at_most(effort, self._view.documents)
        bound = max(effort.scored, effort.rescored)
        positions, scores = np.empty(bound, np.int64), np.empty(bound, np.float32)
        mask = None if mask is None else np.ascontiguousarray(mask)
        count = self._search(
            ctypes.byref(self._view),
            ctypes.c_void_p(query_MD.ctypes.data),
            len(query_MD),
            ctypes.byref(_Effort(*effort)),
            None if mask is None else ctypes.c_void_p(mask.ctypes.data),
            ctypes.c_void_p(positions.ctypes.data),
            ctypes.c_void_p(scores.ctypes.data),
            None if stages is None else ctypes.byref(stages),
        )
        _check(count)
        return positions[:count], scores[:count]

    def rank(
        self, query_MD: Floats, positions: Positions, effort: Effort
    ) -> tuple[Positions, Floats]:
        """As `NumpySearcher.rank`."""
        if _is_too_long(query_MD):
            return self._slow.rank(query_MD, positions, effort)
        query_MD = np.ascontiguousarray(query_MD, np.float32)
        ranked = np.array(positions, np.int64)
        scores = np.empty(len(ranked), np.float32)
        if not len(ranked):
            return ranked, scores
        count = self._rank(
            ctypes.byref(self._view),
            ctypes.c_void_p(query_MD.ctypes.data),
            len(query_MD),
            ctypes.byref(_Effort(*_at_most(effort, self._view.documents))),
            ctypes.c_int64(len(ranked)),
            ctypes.c_void_p(ranked.ctypes.data),
            ctypes.c_void_p(scores.ctypes.data),
        )
        _check(count)
        return ranked[:count], scores[:count]


def _is_too_long(query_MD: Floats) -> bool:
    if len(query_MD) <= _MOST_QUERY_TOKENS:
        return False
    logger.info(
        "a query of %d tokens is searched in NumPy: the library takes %d",
        len(query_MD),
        _MOST_QUERY_TOKENS,
    )
    return True


def _at_most(effort: Effort, documents: int) -> Effort:
    """No larger numbers than there are documents, which fit into what the library counts with."""
    return effort._replace(
        candidates=min(effort.candidates, documents),
        scored=min(effort.scored, documents),
        rescored=min(effort.rescored, documents),
    )


def _check(count: int) -> None:
    if count == _DAMAGED:
        raise IndexFilesError(DAMAGED)
    if count == _OUT_OF_MEMORY:
        raise RetrievalError(
            "no memory left for this search: search with fewer threads or shorter queries"
        )


def _to_bytes(centroids_KD: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Rows of 128 plus a signed byte, and their scales, filled up to whole blocks of rows."""
    count = -(-len(centroids_KD) // _ROWS) * _ROWS
    scales = np.ones(count, np.float32)
    largest = np.abs(centroids_KD).max(axis=1)
    scales[: len(largest)] = np.where(largest > 0, largest, 1) / 127
    rows = np.full((count, centroids_KD.shape[1]), 128, np.uint8)
    rounded = np.rint(centroids_KD / scales[: len(largest), None])
    rows[: len(largest)] = (rounded + 128).astype(np.uint8)
    return rows, scales


def _contiguous(segment: Segment) -> Segment:
    arrays = segment.arrays()
    return Segment.from_arrays({name: np.ascontiguousarray(each) for name, each in arrays.items()})


def _list_of(segment: Segment, centroids: int) -> NDArray[np.int32]:
    """(K,) the number of each centroid's list, -1 where there is none."""
    known = segment.lists.centroids
    if len(known) and not 0 <= known.min() <= known.max() < centroids:
        raise IndexFilesError(DAMAGED)
    numbers = np.full(centroids, -1, np.int32)
    numbers[known] = np.arange(len(known), dtype=np.int32)
    return numbers


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _structure(segment: Segment, list_of: NDArray[np.int32], first: int) -> _Segment:
    return _Segment(
        first,
        segment.documents,
        _address(segment.offsets),
        _address(segment.codes),
        _address(segment.residuals),
        _address(segment.scales),
        _address(list_of),
        _address(segment.lists.starts),
        _address(segment.lists.documents),
        _address(segment.tokens),
        len(segment.codes),
        len(segment.lists.documents),
    )
