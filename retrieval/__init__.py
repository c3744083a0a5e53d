"""Train ModernBERT retrievers, index documents with them, search, and measure the result.

Everything here is imported on first use, so that `import retrieval` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.corpus import read_corpus
    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.embedding_store import EmbeddingStore, write_embeddings
    from retrieval.encoders.live_models import as_encoder
    from retrieval.encoders.loading import load_encoder
    from retrieval.encoders.multi_vector import MultiVectorEncoder
    from retrieval.errors import RetrievalError
    from retrieval.indexing import (
        ExactIndex,
        FaissIndex,
        HybridRetriever,
        LexicalIndex,
        PlaidIndex,
        Retriever,
        build_index,
        open_index,
    )
    from retrieval.records import Document, Hit, Query

__version__ = "0.1.0"

__all__ = [
    "DenseEncoder",
    "Document",
    "EmbeddingStore",
    "ExactIndex",
    "FaissIndex",
    "Hit",
    "HybridRetriever",
    "LexicalIndex",
    "MultiVectorEncoder",
    "PlaidIndex",
    "Query",
    "RetrievalError",
    "Retriever",
    "as_encoder",
    "build_index",
    "load_encoder",
    "open_index",
    "read_corpus",
    "write_embeddings",
]

_MODULES = {
    "corpus": ("read_corpus",),
    "encoders.dense": ("DenseEncoder",),
    "encoders.embedding_store": ("EmbeddingStore", "write_embeddings"),
    "encoders.live_models": ("as_encoder",),
    "encoders.loading": ("load_encoder",),
    "encoders.multi_vector": ("MultiVectorEncoder",),
    "errors": ("RetrievalError",),
    "indexing": (
        "ExactIndex",
        "FaissIndex",
        "HybridRetriever",
        "LexicalIndex",
        "PlaidIndex",
        "Retriever",
        "build_index",
        "open_index",
    ),
    "records": ("Document", "Hit", "Query"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
