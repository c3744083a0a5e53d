"""Dot product, cosine and MaxSim in plain NumPy: slow, exact, the oracle for every fast path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ShapeError

Floats = NDArray[np.floating]


def dot(queries: Floats, documents: Floats) -> NDArray[np.float32]:
    """Score every query against every document.

    Args:
        queries: (Q, D).
        documents: (B, D).

    Returns:
        (Q, B) float32.

    Raises:
        ShapeError: an input is not two-dimensional, or the widths differ.
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ShapeError(
            f"expected queries (Q, D) and documents (B, D), got {queries.shape} and "
            f"{documents.shape}"
        )
    return queries.astype(np.float32) @ documents.astype(np.float32).T


def cosine(queries: Floats, documents: Floats) -> NDArray[np.float32]:
    """Dot products of the vectors scaled to unit length; a zero vector scores 0.

    Args:
        queries: (Q, D).
        documents: (B, D).

    Returns:
        (Q, B) float32 in [-1, 1].
    """
    return dot(_unit(queries), _unit(documents))


def maxsim(queries: Sequence[Floats], documents: Sequence[Floats]) -> NDArray[np.float32]:
    """Sum each query token's best match in every document.

    Args:
        queries: Q arrays (M_q, D).
        documents: B arrays (T_b, D); one without tokens scores -inf, below every negative match.

    Returns:
        (Q, B) float32.

    Raises:
        ShapeError: a query's width differs from a document's.

    Source: Khattab and Zaharia 2020, arXiv:2004.12832.
    """
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    for row, query in enumerate(queries):
        for column, document in enumerate(documents):
            if len(document):
                scores[row, column] = dot(query, document).max(axis=1).sum()
    return scores


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)
