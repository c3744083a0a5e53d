"""The plain records that travel between readers, encoders, indexes and metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Document(NamedTuple):
    """A passage with a caller's string id."""

    id: str
    text: str
    title: str = ""

    @property
    def contents(self) -> str:
        """What encoders and BM25 read: the title, one space, the text (as BEIR joins them).

        >>> Document("d1", "Paris is the capital.", "France").contents
        'France Paris is the capital.'
        """
        return f"{self.title} {self.text}".strip()


Allowed = Collection[str] | Callable[[Document], bool]
"""Which documents may be found: these ids, or the stored documents that a function says yes to."""


class Query(NamedTuple):
    """A question with a caller's string id."""

    id: str
    text: str


class Judgement(NamedTuple):
    """How relevant a document is to a query; 0 or less is not relevant."""

    query_id: str
    document_id: str
    relevance: int


class Hit(NamedTuple):
    """A retrieved document; a higher score is better."""

    document_id: str
    score: float


class ModelReference(NamedTuple):
    """Which encoder made a set of embeddings."""

    name: str
    """The folder or hub name that the encoder was loaded from."""
    fingerprint: str
    """Equal for encoders that give the same vectors, whatever their folder is called."""
    is_multi_vector: bool
    width: int
    options: Mapping[str, Any] = {}
    """What it was loaded with, beside its name, that changes its vectors."""
