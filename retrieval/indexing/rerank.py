"""Exact MaxSim over the candidates of any first stage: dense, BM25, PLAID, fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError, DuplicateIdError, InputError
from retrieval.indexing.index import check_model
from retrieval.indexing.retriever import Searcher
from retrieval.indexing.token_scores import maxsim_scores
from retrieval.indexing.token_vectors import EncodedTokenVectors, StoredTokenVectors, VectorSource
from retrieval.indexing.vectors import Vectors, check_multi_queries, check_multi_vectors
from retrieval.records import Allowed, Document, Hit

_QUERIES_AT_ONCE = 16
"""Whose candidates are fetched together, each document once."""


def rerank(
    queries: Sequence[Vectors],
    candidates: Sequence[Sequence[str] | Sequence[Hit]],
    vectors: VectorSource | Mapping[str, Vectors],
    k: int | None = None,
) -> list[list[Hit]]:
    """Rank each query's candidates by exact MaxSim.

    Args:
        queries: Q arrays (M_q, D).
        candidates: for each query ids, or hits whose scores are not looked at; equal MaxSim
            leaves them in this order.
        vectors: the documents' token vectors: by id, or a function of ids, such as
            `StoredTokenVectors` and `EncodedTokenVectors`.
        k: hits a query at the most; None keeps all.

    Returns:
        For each query its hits, best first. As in an index, a document without tokens is never a
        hit, and a query without tokens has none.

    Raises:
        InputError: a candidate has no vectors, `k` is below 1, or lists of different lengths.
        DuplicateIdError: a candidate comes twice for one query.
        ShapeError, EmbeddingError: vectors of different widths, NaN or infinite.
    """
    if k is not None and k < 1:
        raise InputError(f"k is {k}, expected at least 1")
    if len(queries) != len(candidates):
        raise InputError(f"{len(queries)} queries for {len(candidates)} lists of candidates")
    source = _from_mapping(vectors) if isinstance(vectors, Mapping) else vectors
    named = [_ids(each) for each in candidates]
    ranked = []
    for at in range(0, len(queries), _QUERIES_AT_ONCE):
        window = slice(at, at + _QUERIES_AT_ONCE)
        wanted = list(dict.fromkeys(each for ids in named[window] for each in ids))
        found = _fetch(source, wanted)
        for query, ids in zip(queries[window], named[window]):
            ranked.append(_rank(query, ids, found)[:k])
    return ranked


def _fetch(source: VectorSource, ids: list[str]) -> dict[str, NDArray[np.float32]]:
    given = source(ids) if ids else []
    if len(given) != len(ids):
        raise InputError(f"vectors of {len(given)} documents for {len(ids)} ids")
    return dict(zip(ids, check_multi_vectors(ids, given, None)))


def _rank(query: Vectors, ids: list[str], found: Mapping[str, NDArray[np.float32]]) -> list[Hit]:
    documents = [found[each] for each in ids]
    if not documents or not len(query):
        return []
    (checked,) = check_multi_queries([query], documents[0].shape[1])
    scores = maxsim_scores(checked, documents)
    order = np.argsort(-scores, kind="stable")
    return [Hit(ids[row], float(scores[row])) for row in order if scores[row] > -np.inf]


def _ids(candidates: Sequence[str] | Sequence[Hit]) -> list[str]:
    ids = [each if isinstance(each, str) else each.document_id for each in candidates]
    if len(set(ids)) < len(ids):
        twice = next(each for at, each in enumerate(ids) if each in ids[:at])
        raise DuplicateIdError(f"the candidate {twice!r} comes twice for one query")
    return ids


def _from_mapping(vectors: Mapping[str, Vectors]) -> VectorSource:
    def source(ids: Sequence[str]) -> list[Vectors]:
        missing = [each for each in ids if each not in vectors]
        if missing:
            raise InputError(f"no vectors for {', '.join(map(repr, missing[:10]))}")
        return [vectors[each] for each in ids]

    return source


class RerankingRetriever(Searcher):
    """Asks a first stage for candidates and ranks them by exact MaxSim.

    Attributes:
        first: a dense, lexical, PLAID or hybrid retriever.
        encoder: a multi-vector encoder for the queries.
        vectors: the documents' token vectors; by default the first stage's stored documents are
            encoded at every search, which wants a GPU or a small `depth`.
        depth: candidates a question, at least `k`.
    """

    def __init__(
        self,
        first: Searcher,
        encoder: Encoder,
        vectors: StoredTokenVectors | VectorSource | None = None,
        *,
        depth: int = 100,
    ) -> None:
        """Check that the parts fit.

        Raises:
            ConfigError: the encoder makes one vector a text, or `depth` is below 1.
            ModelMismatchError: another model made the stored vectors.
        """
        if not encoder.reference.is_multi_vector:
            raise ConfigError(
                f"{encoder.reference.name} makes one vector a text: MaxSim needs a multi-vector "
                "model"
            )
        if depth < 1:
            raise ConfigError(f"depth is {depth}, expected at least 1")
        if isinstance(vectors, StoredTokenVectors):
            check_model(vectors.folder, vectors.model, encoder.reference)
        self.first = first
        self.encoder = encoder
        self.vectors = vectors or EncodedTokenVectors(encoder, first.document)
        self.depth = depth

    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """The candidates of the first stage by exact MaxSim."""
        candidates = self.first.find(questions, max(k, self.depth), allowed=allowed)
        queries = list(self.encoder.encode_queries(questions))
        return rerank(queries, candidates, self.vectors, k)

    def document(self, document_id: str) -> Document | None:
        """The document that the first stage keeps."""
        return self.first.document(document_id)
