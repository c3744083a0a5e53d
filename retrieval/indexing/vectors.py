"""Checks of embeddings at the door of every vector index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from retrieval.errors import EmbeddingError, ShapeError

Vectors = NDArray[np.floating]


def check_vectors(
    ids: Sequence[str], vectors: Vectors, width: int | None, dtype: DTypeLike = np.float32
) -> NDArray[np.float32]:
    """Check single-vector embeddings of documents.

    Args:
        ids: N ids, for messages.
        vectors: (N, D).
        width: the D that is expected; None accepts any.
        dtype: what the index stores.

    Returns:
        The vectors as `dtype`.

    Raises:
        ShapeError: not (N, D), or another width.
        EmbeddingError: NaN, infinite, or too large for `dtype`; the id is named.
    """
    vectors = as_array(vectors)
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ShapeError(f"expected vectors (N, {width or 'width'}), got the shape {vectors.shape}")
    converted = _convert(vectors, dtype)
    finite = np.isfinite(converted).all(axis=1)
    if not finite.all():
        _refuse(f"the embedding of {ids[int(np.argmin(finite))]!r}", dtype)
    return converted


def check_multi_vectors(
    ids: Sequence[str], items: Sequence[Vectors], width: int | None, dtype: DTypeLike = np.float32
) -> list[NDArray[np.float32]]:
    """Check multi-vector embeddings, each (tokens, D); result and errors as in `check_vectors`."""
    checked = []
    for each, item in zip(ids, items, strict=True):
        item = as_array(item)
        if item.ndim != 2 or (width is not None and item.shape[1] != width):
            raise ShapeError(
                f"{each!r}: expected (tokens, {width or 'width'}), got the shape {item.shape}"
            )
        width = item.shape[1]
        converted = _convert(item, dtype)
        if not np.isfinite(converted).all():
            _refuse(f"the embedding of {each!r}", dtype)
        checked.append(converted)
    return checked


def check_queries(queries: Vectors | Sequence[Vectors], width: int) -> NDArray[np.float32]:
    """Check single-vector embeddings of queries, (Q, D).

    Returns:
        (Q, D) float32.

    Raises:
        ShapeError: not (Q, D), or another width than the index's.
        EmbeddingError: a query is NaN or infinite.
    """
    rows = [_check_query(query, at, (width,)) for at, query in enumerate(queries)]
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def check_multi_queries(queries: Sequence[Vectors], width: int) -> list[NDArray[np.float32]]:
    """Check multi-vector embeddings of queries, each (tokens, D); errors as in `check_queries`."""
    return [_check_query(query, at, ("tokens", width)) for at, query in enumerate(queries)]


def _check_query(
    query: Vectors, position: int, shape: tuple[int | str, ...]
) -> NDArray[np.float32]:
    query = as_array(query)
    given = query.shape
    if len(given) != len(shape) or given[-1] != shape[-1]:
        expected = ", ".join(map(str, shape))
        raise ShapeError(f"query {position}: expected the shape ({expected}), got {given}")
    converted = _convert(query, np.float32)
    if not np.isfinite(converted).all():
        _refuse(f"query {position}", np.float32)
    return converted


def as_array(vectors: Any) -> Vectors:
    """NumPy's array of a torch tensor, on any device and of any float dtype; arrays as they are."""
    if isinstance(vectors, np.ndarray):
        return vectors
    if hasattr(vectors, "detach"):
        # NumPy has no bfloat16.
        vectors = vectors.detach().float().cpu().numpy()
    return np.asarray(vectors)


def _convert(vectors: Vectors, dtype: DTypeLike) -> NDArray[np.float32]:
    # A value above the range becomes infinite, which the caller refuses with the id.
    with np.errstate(over="ignore"):
        converted: NDArray[np.float32] = vectors.astype(dtype, copy=False)
    return converted


def _refuse(what: str, dtype: DTypeLike) -> NoReturn:
    raise EmbeddingError(f"{what} is NaN, infinite, or beyond {np.dtype(dtype).name}")
