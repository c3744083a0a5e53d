"""Several indexes asked at once, their rankings fused into one."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.errors import ConfigError, InputError
from retrieval.indexing.fusion import FusionSettings, fuse
from retrieval.indexing.retriever import Searcher
from retrieval.records import Allowed, Document, Hit


class HybridRetriever(Searcher):
    """Asks several retrievers the same question and fuses what they find.

    Their documents are told apart by id alone: the same id is the same document everywhere. They
    need not have the same documents.

    Attributes:
        retrievers: dense, PLAID, BM25: any number, each with its own encoder.
        settings: how the rankings are fused.
        depth: hits that each retriever is asked for, at least `k`.

    Example:
        `HybridRetriever([Retriever.open("my/plaid"), Retriever.open("my/bm25")])`
    """

    def __init__(
        self,
        retrievers: Sequence[Searcher],
        settings: FusionSettings | None = None,
        *,
        depth: int = 100,
    ) -> None:
        self.retrievers = list(retrievers)
        self.settings = settings or FusionSettings()
        self.depth = depth
        if not self.retrievers:
            raise ConfigError("no retriever was given: name at least one")
        weights = self.settings.weights
        if weights is not None and len(weights) != len(self.retrievers):
            raise ConfigError(f"{len(weights)} weights for {len(self.retrievers)} retrievers")
        if depth < 1:
            raise ConfigError(f"depth is {depth}, expected at least 1")

    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """The best documents for every question, with their fused scores."""
        depth = max(k, self.depth)
        found = [each.find(questions, depth, allowed=allowed) for each in self.retrievers]
        return [fuse(rankings, self.settings)[:k] for rankings in zip(*found)]

    def document(self, document_id: str) -> Document | None:
        """The document from the first retriever that keeps it."""
        is_known = False
        for retriever in self.retrievers:
            try:
                document = retriever.document(document_id)
            except InputError:
                continue
            is_known = True
            if document is not None:
                return document
        if not is_known:
            raise InputError(f"in none of the indexes: {document_id!r}")
        return None
