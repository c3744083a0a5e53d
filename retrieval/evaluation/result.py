"""The result of an evaluation: its figures and what made them, as one JSON file."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import ConfigError
from retrieval.evaluation.manifest import Manifest
from retrieval.evaluation.settings import EvaluationSettings
from retrieval.files import read_json, write_json
from retrieval.records import ModelReference

_PACKAGES = (
    "modernbert-retrieval",
    "bm25s",
    "faiss-cpu",
    "model2vec",
    "numpy",
    "pylate",
    "pytrec_eval-terrier",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long the queries took; a first query, not counted, has warmed everything up."""

    queries: int
    encode_seconds: float
    """0 where the index takes texts."""
    search_seconds: float

    @property
    def search_queries_per_second(self) -> float:
        """The rate of the search alone."""
        return _rate(self.queries, self.search_seconds)

    @property
    def queries_per_second(self) -> float:
        """The rate of encoding and search together."""
        return _rate(self.queries, self.encode_seconds + self.search_seconds)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much an evaluation looked at."""

    documents: int
    """In the index."""
    queries: int
    """That were asked."""
    judgements: int
    missing_documents: int
    """Judged, but not in the index."""
    missing_queries: int
    """Judged, but without a text; they score 0."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one system reached on one collection, and what made it."""

    system: str
    """The name in tables and plots."""
    collection: str
    split: str
    collection_fingerprint: str
    """Of the queries and judgements; see `Collection.fingerprint`."""
    metrics: dict[str, float]
    """Means over all judged queries."""
    counts: Counts
    timings: Timings
    settings: EvaluationSettings
    index_kind: str
    index_parameters: dict[str, Any]
    index_bytes: int | None
    """On disk, stored documents not counted; None for an index that was not saved."""
    model: ModelReference | None
    """The encoder of queries and documents; None where the index takes texts."""
    created: str
    """When, in UTC (ISO 8601)."""
    python: str
    cpu_count: int
    """Processors that the process may use."""
    versions: dict[str, str]
    """Of the installed libraries."""
    per_query: dict[str, dict[str, float]]
    """Values by query id, then by metric."""
    manifest: Manifest | None = None
    """What made the result, enough to repeat it; None in files of before, and in results of
    `evaluate`, which is given objects and not what they were made from."""

    def to_json(self, path: str | Path) -> None:
        """Write everything as JSON, atomically; an older file is replaced."""
        write_json(Path(path), self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """The plain dictionary that `to_json` writes."""
        mapping = to_mapping(self)
        mapping["model"] = self.model._asdict() if self.model else None
        return mapping

    @classmethod
    def from_json(cls, path: str | Path) -> Result:
        """Read what `to_json` wrote.

        Raises:
            RetrievalError: the file is missing or is not JSON.
            ConfigError: it does not hold a result; the message names the key.
        """
        mapping = read_json(Path(path))
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{path}: expected a result, found {type(mapping).__name__}")
        return from_mapping(cls, mapping, source=str(path))


def library_versions() -> dict[str, str]:
    """The versions of the libraries that can change a result, as far as they are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def python_version() -> str:
    """The interpreter and its version, such as "CPython 3.12.3"."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
