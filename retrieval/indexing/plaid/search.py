"""The two stages of a search: candidates from the centroids alone, then their residuals.

Legend: M query tokens, K centroids, N documents, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.plaid.codec import Floats, ResidualCodec
from retrieval.indexing.plaid.inverted import InvertedLists
from retrieval.indexing.ragged import RaggedRows, rows_of

_CHUNK_DOCUMENTS = 16
"""Few enough that their residuals stay in the processor's cache until they are multiplied."""


def probe(
    similarities_MK: Floats,
    lists: InvertedLists,
    *,
    probes: int,
    documents: int,
    mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], Floats]:
    """Score the documents that have a token at one of the query tokens' best centroids.

    A query token's part in a document's score is that of the document's best probed centroid. For
    a document at none of them it is that of the last centroid probed, which it can't exceed.

    Args:
        similarities_MK: (M, K), M at least 1.
        lists: the documents of each centroid.
        probes: centroids of each query token, from 1 to K.
        documents: N.
        mask: (N,) True for documents that may be found; None where all may.

    Returns:
        Documents, ascending, and their approximate scores.

    Source: the candidates of PLAID, arXiv:2205.09707, with the estimate for what was not seen of
    XTR, arXiv:2304.01982, in place of a second pass over all tokens of the candidates.
    """
    count = similarities_MK.shape[1]
    best_MP = np.argpartition(similarities_MK, count - probes, axis=1)[:, count - probes :]
    gains = np.zeros(documents, np.float32)
    is_hit = np.zeros(documents, np.bool_)
    last = np.empty(documents, np.int64)
    floor = np.float32(0)
    for similarities_K, chosen in zip(similarities_MK, best_MP):
        ascending = chosen[np.argsort(similarities_K[chosen], kind="stable")]
        entries, _ = rows_of(lists.starts, ascending)
        lengths = lists.starts[ascending + 1] - lists.starts[ascending]
        found = lists.documents[entries]
        scores = np.repeat(similarities_K[ascending], lengths)
        if mask is not None:
            keep = mask[found]
            found, scores = found[keep], scores[keep]
        # Of a document's entries the last one, the best, stays.
        places = np.arange(len(found))
        last[found] = places
        is_best = last[found] == places
        found, scores = found[is_best], scores[is_best]
        lowest = similarities_K[ascending[0]]
        gains[found] += scores - lowest
        is_hit[found] = True
        floor += lowest
    hits = np.flatnonzero(is_hit)
    return hits, gains[hits] + floor


def maxsim(
    query_MD: Floats,
    similarities_MK: Floats,
    chosen: NDArray[np.int64],
    tokens: RaggedRows,
    codec: ResidualCodec,
) -> Floats:
    """MaxSim of a query with the decoded tokens of some documents, each with a token or more.

    A token's dot product is that of its centroid, which is there already, plus that of its
    residual, times its scale: the centroid's vector is never read.

    Args:
        query_MD: (M, D).
        similarities_MK: (M, K) the dot products with all centroids.
        chosen: positions of documents.
        tokens: the columns "codes", "residuals" and "scales".
        codec: what encoded them.

    Returns:
        (len(chosen),) float32.
    """
    codes, residuals, scales = tokens["codes"], tokens["residuals"], tokens["scales"]
    similarities_KM = np.ascontiguousarray(similarities_MK.T)
    scores = np.empty(len(chosen), np.float32)
    for at in range(0, len(chosen), _CHUNK_DOCUMENTS):
        part = slice(at, at + _CHUNK_DOCUMENTS)
        rows, starts = rows_of(tokens.offsets, chosen[part])
        products = codec.residuals(np.take(residuals, rows, axis=0)) @ query_MD.T
        products += np.take(similarities_KM, codes[rows], axis=0)
        products *= scales[rows][:, None]
        scores[part] = np.maximum.reduceat(products, starts, axis=0).sum(axis=1)
    return scores
