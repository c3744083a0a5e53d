"""Checks of embeddings at the door of every vector index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EmbeddingError, ShapeError

Vectors = NDArray[np.floating]


def check_vectors(ids: Sequence[str], vectors: Vectors, width: int | None) -> None:
    """Check single-vector embeddings.

    Args:
        ids: N ids, for messages.
        vectors: (N, D).
        width: the D that is expected; None accepts any.

    Raises:
        ShapeError: not (N, D), or another width.
        EmbeddingError: NaN or infinite; the id is named.
    """
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ShapeError(f"expected vectors of width {width}, got the shape {vectors.shape}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise EmbeddingError(f"the embedding of {ids[int(np.argmin(finite))]!r} is not finite")


def check_multi_vectors(ids: Sequence[str], items: Sequence[Vectors], width: int | None) -> None:
    """Check multi-vector embeddings, each (tokens, D); errors as in `check_vectors`."""
    for each, item in zip(ids, items, strict=True):
        if item.ndim != 2 or (width is not None and item.shape[1] != width):
            raise ShapeError(
                f"{each!r}: expected (tokens, {width or 'width'}), got the shape {item.shape}"
            )
        width = item.shape[1]
        if not np.isfinite(item).all():
            raise EmbeddingError(f"the embedding of {each!r} is not finite")


def check_queries(width: int, queries: Sequence[Vectors] | Vectors) -> None:
    """Check that queries, (Q, D) or Q arrays (tokens, D), have the width of the index.

    Raises:
        ShapeError: they do not.
        EmbeddingError: a query is NaN or infinite.
    """
    for position, query in enumerate(queries):
        if query.shape[-1] != width:
            raise ShapeError(f"query {position} has the width {query.shape[-1]}, the index {width}")
        if not np.isfinite(query).all():
            raise EmbeddingError(f"query {position} is not finite")
