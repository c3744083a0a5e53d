"""Exact MaxSim, and upper bounds of it, through the compiled library, over several threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import native
from retrieval.indexing.rounded_tokens import RoundedTokens
from retrieval.parallel import in_threads

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

_NUMBERS = {np.dtype(name): at for at, name in enumerate(("float32", "float16", "uint16"))}
"""How the library knows what rows hold; uint16 is bfloat16, which NumPy does not have."""
_CHUNK_TOKENS = 1 << 15
"""Of one call: some milliseconds, so that threads finish together."""


class _Runs(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("width", ctypes.c_int32),
        ("number", ctypes.c_int32),
    )


class _RoundedRuns(ctypes.Structure):
    _fields_ = (
        ("runs", _Runs),
        ("scales", ctypes.c_void_p),
        ("errors", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
    )


def is_supported(width: int) -> bool:
    """Whether there is a library, and it takes rows of this width."""
    return width % 8 == 0 and width > 0 and native.library() is not None


def maxsim_of_runs(
    query_MD: Floats, rows: NDArray[Any], starts: Numbers, ends: Numbers, threads: int | None = None
) -> Floats:
    """MaxSim of a query and the documents that are runs of rows.

    Args:
        query_MD: (M, D) float32, finite.
        rows: (T, D) float32, float16, or bfloat16 as uint16, for which the query is rounded to
            bfloat16 too; read once, nothing is copied. D is a multiple of 8.
        starts: (N,) the first row of each document.
        ends: (N,) the row behind its last one.
        threads: that share the documents; None is one for each processor.

    Returns:
        (N,) float32; -inf for a document without tokens.
    """
    run = native.loaded().retrieval_maxsim
    number = _NUMBERS[rows.dtype]

    def work(query: Floats, first: int, last: int, scores: Floats) -> None:
        runs = _runs(rows, starts[first:last], ends[first:last], number)
        run(ctypes.byref(runs), _address(query), len(query), _address(scores[first:last]))

    return _work_on_ranges(work, query_MD, rows, starts, ends, threads)


def maxsim_bounds(
    query_MD: Floats,
    rounded: RoundedTokens,
    starts: Numbers,
    ends: Numbers,
    threads: int | None = None,
) -> Floats:
    """At least what `maxsim_of_runs` gives for the float rows that were rounded.

    Args and result as there; on one core two to four times faster.
    """
    run = native.loaded().retrieval_maxsim_bounds
    addresses = [each.ctypes.data for each in rounded[1:]]

    def work(query: Floats, first: int, last: int, scores: Floats) -> None:
        runs = _runs(rounded.codes, starts[first:last], ends[first:last], 0)
        both = _RoundedRuns(runs, *addresses)
        run(ctypes.byref(both), _address(query), len(query), _address(scores[first:last]))

    return _work_on_ranges(work, query_MD, rounded.codes, starts, ends, threads)


def _work_on_ranges(
    work: Callable[[Floats, int, int, Floats], None],
    query_MD: Floats,
    rows: NDArray[Any],
    starts: Numbers,
    ends: Numbers,
    threads: int | None,
) -> Floats:
    """Call `work(query, first, last, scores)` for ranges of documents with tokens enough."""
    assert rows.flags.c_contiguous
    assert query_MD.shape[1] == rows.shape[1]
    query = np.ascontiguousarray(query_MD, np.float32)
    scores = np.empty(len(starts), np.float32)
    tokens = np.cumsum(ends - starts)
    total = int(tokens[-1]) if len(tokens) else 0
    cuts = np.searchsorted(tokens, np.arange(_CHUNK_TOKENS, total, _CHUNK_TOKENS), "right")
    bounds = np.unique([0, *cuts.tolist(), len(starts)]).tolist()
    if threads == 1:
        bounds = [0, len(starts)]
    parts = list(pairwise(bounds))
    for _ in in_threads(lambda part: work(query, *part, scores), parts, threads):
        pass
    return scores


def _runs(rows: NDArray[Any], starts: Numbers, ends: Numbers, number: int) -> _Runs:
    assert starts.flags.c_contiguous
    assert ends.flags.c_contiguous
    return _Runs(
        rows.ctypes.data, starts.ctypes.data, ends.ctypes.data, len(starts), rows.shape[1], number
    )


def _address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
