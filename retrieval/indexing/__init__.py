"""Indexes: exact, FAISS, PLAID and lexical, behind one interface, each a folder of versions."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import ConfigError, IndexFilesError
from retrieval.indexing.index import Batch, Index
from retrieval.indexing.versions import read_manifest
from retrieval.records import ModelReference

if TYPE_CHECKING:
    from retrieval.indexing.exact import ExactIndex, ExactSettings
    from retrieval.indexing.explain import Explanation, TokenMatch, explain_texts
    from retrieval.indexing.faiss_index import FaissIndex, FaissSettings
    from retrieval.indexing.fusion import FusionSettings, fuse
    from retrieval.indexing.hybrid import HybridRetriever
    from retrieval.indexing.lexical import LexicalIndex, LexicalSettings
    from retrieval.indexing.on_gpu import ExactMaxSim, TorchPlaidIndex
    from retrieval.indexing.plaid.plaid_index import PlaidIndex
    from retrieval.indexing.plaid.settings import PlaidSettings
    from retrieval.indexing.rerank import RerankingRetriever
    from retrieval.indexing.retriever import Passage, Retriever, build_index
    from retrieval.indexing.token_vectors import EncodedTokenVectors, StoredTokenVectors

__all__ = [
    "Batch",
    "EncodedTokenVectors",
    "ExactIndex",
    "ExactMaxSim",
    "ExactSettings",
    "Explanation",
    "FaissIndex",
    "FaissSettings",
    "FusionSettings",
    "HybridRetriever",
    "Index",
    "LexicalIndex",
    "LexicalSettings",
    "Passage",
    "PlaidIndex",
    "PlaidSettings",
    "RerankingRetriever",
    "Retriever",
    "StoredTokenVectors",
    "TokenMatch",
    "TorchPlaidIndex",
    "build_index",
    "explain_texts",
    "fuse",
    "index_class",
    "open_index",
]

_KINDS = {
    "exact": "ExactIndex",
    "faiss": "FaissIndex",
    "lexical": "LexicalIndex",
    "plaid": "PlaidIndex",
}

# Each is imported on first use: FAISS, bm25s and the encoders take a while to load.
_MODULES = {
    "exact": ("ExactIndex", "ExactSettings"),
    "faiss_index": ("FaissIndex", "FaissSettings"),
    "explain": ("Explanation", "TokenMatch", "explain_texts"),
    "fusion": ("FusionSettings", "fuse"),
    "hybrid": ("HybridRetriever",),
    "lexical": ("LexicalIndex", "LexicalSettings"),
    "on_gpu": ("ExactMaxSim", "TorchPlaidIndex"),
    "plaid.plaid_index": ("PlaidIndex",),
    "plaid.settings": ("PlaidSettings",),
    "rerank": ("RerankingRetriever",),
    "retriever": ("Passage", "Retriever", "build_index"),
    "token_vectors": ("EncodedTokenVectors", "StoredTokenVectors"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def index_class(kind: str) -> type[Index[Any]]:
    """The class of a kind of index: "exact", "faiss", "lexical" or "plaid".

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in _KINDS:
        raise ConfigError(f"unknown kind of index {kind!r}: expected one of {', '.join(_KINDS)}")
    found: type[Index[Any]] = __getattr__(_KINDS[kind])
    return found


def open_index(
    folder: str | Path, *, model: ModelReference | None = None, writable: bool = False
) -> Index[Any]:
    """Open the index in a folder, whatever its kind.

    Args:
        folder: as given to `build`.
        model: the encoder that queries will come from; None skips the comparison.
        writable: allow `add`, `delete` and `save`.

    Raises:
        IndexFilesError: no index there, one of a kind that this release lacks, or damaged files.
        ModelMismatchError: the index was filled by another model.
    """
    kind = read_manifest(Path(folder)).kind
    if kind not in _KINDS:
        raise IndexFilesError(
            f"{folder}: an index of kind {kind!r}, this release reads {', '.join(_KINDS)}: upgrade"
        )
    return index_class(kind).open(folder, model=model, writable=writable)
