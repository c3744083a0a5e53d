"""Why a document has its MaxSim score: which of its tokens each query token matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.token_texts import token_texts
from retrieval.errors import InputError
from retrieval.indexing.vectors import Vectors, check_multi_queries, check_multi_vectors


@dataclass(frozen=True, kw_only=True)
class TokenMatch:
    """A query token, and the document token that is most similar to it.

    Attributes:
        query_token: number of the query's token vector, from 0.
        document_token: number of the document's.
        similarity: their dot product: what the query token adds to the score.
        query_text: the query token as text, where it is known.
        document_text: the document token as text, where it is known.
    """

    query_token: int
    document_token: int
    similarity: float
    query_text: str | None = None
    document_text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A MaxSim score as the sum of its matches, in the order of the query's tokens."""

    score: float
    matches: tuple[TokenMatch, ...]

    def __str__(self) -> str:
        """A table: query token, document token, similarity; the last line is the sum."""
        rows = [
            (
                match.query_text or f"token {match.query_token}",
                match.document_text or f"token {match.document_token}",
                match.similarity,
            )
            for match in self.matches
        ]
        left = max([len(row[0]) for row in rows] + [len("MaxSim")])
        right = max([len(row[1]) for row in rows] + [0])
        lines = [
            f"{query:{left}}  {document:{right}}  {each:7.3f}" for query, document, each in rows
        ]
        lines.append(f"{'MaxSim':{left}}  {'':{right}}  {self.score:7.3f}")
        return "\n".join(lines)


def explain(
    query: Vectors,
    document: Vectors,
    *,
    query_texts: Sequence[str] | None = None,
    document_texts: Sequence[str] | None = None,
) -> Explanation:
    """Take the MaxSim of a query and a document apart.

    Args:
        query: (M, D).
        document: (T, D), T at least 1.
        query_texts: M texts of the query's tokens, for reading.
        document_texts: T texts of the document's.

    Returns:
        M matches whose similarities sum to the score; among equal similarities the first document
        token counts.

    Raises:
        InputError: a document without tokens, or another number of texts than of vectors.
        ShapeError, EmbeddingError: vectors that do not fit, NaN or infinite.

    >>> found = explain(np.eye(2), np.array([[0.0, 0.9], [1.0, 0.0]]))
    >>> [(match.document_token, match.similarity) for match in found.matches]
    [(1, 1.0), (0, 0.8999999761581421)]
    """
    (checked,) = check_multi_vectors(["document"], [document], None)
    (rows,) = check_multi_queries([query], checked.shape[1])
    if not len(checked):
        raise InputError("the document has no token vectors: its score is no sum")
    for name, texts, vectors in (
        ("query", query_texts, rows),
        ("document", document_texts, checked),
    ):
        if texts is not None and len(texts) != len(vectors):
            raise InputError(f"{len(texts)} texts for the {len(vectors)} tokens of the {name}")
    similarities = rows @ checked.T
    best = similarities.argmax(axis=1)
    matches = tuple(
        TokenMatch(
            query_token=number,
            document_token=int(at),
            similarity=float(similarities[number, at]),
            query_text=query_texts[number] if query_texts else None,
            document_text=document_texts[at] if document_texts else None,
        )
        for number, at in enumerate(best)
    )
    score = float(np.take_along_axis(similarities, best[:, None], axis=1).sum())
    return Explanation(score=score, matches=matches)


def explain_texts(encoder: MultiVectorEncoder, question: str, document: str) -> Explanation:
    """Encode a question and a document, and take their MaxSim apart.

    The score is that of the exact vectors: that of a PLAID index, whose vectors are compressed,
    differs a little.

    Args:
        encoder: whose token texts are shown, where they can be told.
        question: as given to `search`.
        document: the document's contents: title, a blank, text.
    """
    (query,) = encoder.encode_queries([question])
    (vectors,) = encoder.encode_documents([document])
    return explain(
        query,
        vectors,
        query_texts=token_texts(encoder, question, "query"),
        document_texts=token_texts(encoder, document, "document"),
    )
