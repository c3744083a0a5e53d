"""Nearest centroids and residual codes through the compiled library, over several threads."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval import native
from retrieval.indexing.plaid.codec import SHORTEST, EncodedTokens, ResidualCodec, code_type
from retrieval.indexing.plaid.kmeans import group_centroids
from retrieval.indexing.plaid.values import Floats
from retrieval.parallel import in_threads

_CHUNK = 1 << 14
"""Tokens of one call: enough for each group of centroids to meet some, and a few MB."""
_COLUMNS = 16
"""A matrix of directions has a multiple of so many."""


class _Rounding(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("centroids", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("bounds", ctypes.c_void_p),
        ("shortest", ctypes.c_float),
        ("components", ctypes.c_int32),
        ("to_components", ctypes.c_void_p),
        ("centroid_components", ctypes.c_void_p),
        ("squares", ctypes.c_void_p),
        ("first_values", ctypes.c_void_p),
        ("first_bounds", ctypes.c_void_p),
    )


class NativeCentroidSearch:
    """Finds tokens' nearest centroids, up to the rounding of both to bytes."""

    def __init__(self, centroids_KD: Floats, threads: int | None = None) -> None:
        library = native.loaded()
        heads_GD, groups_K, probed = group_centroids(centroids_KD)
        make = library.retrieval_centroid_groups
        make.restype = ctypes.c_void_p
        centroids, heads = _floats(centroids_KD), _floats(heads_GD)
        groups = np.ascontiguousarray(groups_K, np.int32)
        self._width = centroids.shape[1]
        self._threads = threads
        self._handle = ctypes.c_void_p(
            make(
                _address(centroids),
                len(centroids),
                self._width,
                _address(heads),
                len(heads),
                _address(groups),
                probed,
            )
        )
        weakref.finalize(self, library.retrieval_free_centroid_groups, self._handle)

    def nearest(self, tokens_TD: Floats) -> NDArray[np.int32]:
        """For each of (T, D) tokens the number of its centroid."""
        tokens = _floats(tokens_TD)
        codes = np.empty(len(tokens), np.int32)
        find = native.loaded().retrieval_nearest_centroids

        def work(first: int, last: int) -> None:
            find(
                self._handle,
                _address(tokens[first:last]),
                ctypes.c_int64(last - first),
                _address(codes[first:last]),
            )

        _work_on_chunks(work, len(tokens), self._threads)
        return codes


def encode(
    codec: ResidualCodec, tokens_TD: Floats, codes: NDArray[np.integer], threads: int | None = None
) -> EncodedTokens:
    """As `ResidualCodec.encode`."""
    tokens, numbers = _floats(tokens_TD), np.ascontiguousarray(codes, np.int32)
    residuals = np.empty((len(tokens), codec.residual_bytes), np.uint8)
    scales = np.empty(len(tokens), np.float16)
    codec.check_lengths(tokens)
    rounding, arrays = _rounding(codec)
    run = native.loaded().retrieval_encode_residuals

    def work(first: int, last: int) -> None:
        run(
            ctypes.byref(rounding),
            _address(tokens[first:last]),
            _address(numbers[first:last]),
            ctypes.c_int64(last - first),
            _address(residuals[first:last]),
            _address(scales[first:last]),
        )

    _work_on_chunks(work, len(tokens), threads)
    del arrays
    return EncodedTokens(codes.astype(code_type(len(codec.centroids))), residuals, scales)


def matrix_of_directions(directions_DC: Floats) -> Floats:
    """(D, C filled up to whole vectors), as the library multiplies with them."""
    count = directions_DC.shape[1]
    return np.pad(np.ascontiguousarray(directions_DC), ((0, 0), (0, -count % _COLUMNS)))


def _rounding(codec: ResidualCodec) -> tuple[_Rounding, list[Floats]]:
    """What the library rounds by, and the arrays that it points into."""
    *first_section, section = codec.sections
    own = [_floats(each) for each in (codec.centroids, section.values, section.bounds)]
    shared = (codec.width, codec.bits, *map(_address, own), SHORTEST)
    principal = codec.principal
    if principal is None:
        return _Rounding(*shared), own
    along = [
        matrix_of_directions(principal.to_components),
        codec.centroid_components,
        principal.squares,
        first_section[0].values,
        first_section[0].bounds,
    ]
    along = [_floats(each) for each in along]
    return _Rounding(*shared, len(principal.directions), *map(_address, along)), own + along


def _work_on_chunks(work: Callable[[int, int], None], rows: int, threads: int | None) -> None:
    """Call `work(first, last)` for chunks of the rows."""
    chunks = [(at, min(at + _CHUNK, rows)) for at in range(0, rows, _CHUNK)]
    for _ in in_threads(lambda chunk: work(*chunk), chunks, threads):
        pass


def _floats(array: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(array, np.float32)


def _address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
