"""What all indexes share: ids, deletion, filters, stored documents, opening and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import (
    DuplicateIdError,
    IndexFilesError,
    InputError,
    ModelMismatchError,
    ReadOnlyError,
)
from retrieval.files import read_json, write_json
from retrieval.indexing import versions
from retrieval.indexing.documents import StoredDocuments
from retrieval.records import Document, Hit, ModelReference

Items = TypeVar("Items")
"""What an index takes: (N, D) vectors, N arrays of (tokens, D), or N texts."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions and their scores, best first."""


class Batch(NamedTuple, Generic[Items]):
    """Rows to index: N ids, what to index them by, and optionally the documents to keep."""

    ids: Sequence[str]
    items: Items
    documents: Sequence[Document] | None = None


class Index(ABC, Generic[Items]):
    """A searchable set of documents by string id, saved as versions in one folder.

    A change becomes visible to others with `save`, which is atomic. Positions are internal and
    never change meaning; ids are the caller's.

    Attributes:
        model: the encoder that made the vectors, or None.
        settings: the frozen dataclass that the index was built with.
        documents: the stored documents by position; empty where none were given.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]

    def __init__(self, settings: Any = None, *, model: ModelReference | None = None) -> None:
        self.settings = settings if settings is not None else self.settings_type()
        self.model = model
        self.documents = StoredDocuments()
        self._folder: Path | None = None
        self._writable = True
        self._ids: list[str | None] = []
        self._positions: dict[str, int] = {}

    @classmethod
    def build(
        cls,
        folder: Path,
        batches: Iterable[Batch[Items]],
        *,
        settings: Any = None,
        model: ModelReference | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Index all batches and commit them as the first version in `folder`.

        Args:
            folder: where the index goes; created if missing.
            batches: gone through more than once by indexes that learn from a sample first, so a
                one-shot iterator is held in memory.
            settings: the index's settings dataclass; defaults where None.
            model: the encoder that made the vectors; checked when the index is opened.
            overwrite: replace an index that is already there, once the new one is complete.

        Raises:
            IndexFilesError: `folder` holds an index and `overwrite` is False.
            DuplicateIdError: an id comes twice.
            EmbeddingError: an embedding is NaN or infinite.
            ShapeError: embeddings of different widths.
        """
        if (folder / "CURRENT").exists() and not overwrite:
            raise IndexFilesError(f"{folder}: holds an index already (--overwrite replaces it)")
        index = cls(settings, model=model)
        index._learn(batches if iter(batches) is not batches else (batches := list(batches)))
        for batch in batches:
            index.add(batch.ids, batch.items, documents=batch.documents)
        index._folder = folder
        index.save()
        return index

    @classmethod
    def open(
        cls, folder: Path, *, model: ModelReference | None = None, writable: bool = False
    ) -> Self:
        """Open the current version.

        Args:
            folder: as given to `build`.
            model: the encoder that queries will come from; None skips the comparison.
            writable: allow `add`, `delete` and `save`.

        Raises:
            IndexFilesError: no index here, one of another kind, or damaged files.
            ModelMismatchError: the index was filled by another model.
        """
        manifest = versions.read_manifest(folder)
        if manifest.kind != cls.kind:
            raise IndexFilesError(f"{folder}: holds a {manifest.kind} index, not {cls.kind}")
        check_model(folder, manifest.model, model)
        source = f"{folder}: parameters"
        settings = from_mapping(cls.settings_type, manifest.parameters, source=source)
        index = cls(settings, model=manifest.model)
        index._folder, index._writable = folder, writable
        version = versions.current_version(folder)
        index._ids = read_json(version / "ids.json")
        index._positions = {each: at for at, each in enumerate(index._ids) if each is not None}
        index.documents = StoredDocuments.open(version)
        index._read(version)
        return index

    @property
    def folder(self) -> Path | None:
        """Where the index is saved; None for one that was neither built nor opened."""
        return self._folder

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self._positions

    def document(self, document_id: str) -> Document | None:
        """The stored document, or None where the index was built without documents."""
        position = self._positions[document_id]
        return self.documents[position] if position < len(self.documents) else None

    def add(
        self, ids: Sequence[str], items: Items, *, documents: Sequence[Document] | None = None
    ) -> None:
        """Append rows in memory; `save` commits them.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
            DuplicateIdError: an id is in the index already, or twice in `ids`.
            InputError: `ids`, `items` and `documents` differ in number.
            EmbeddingError, ShapeError: as in `build`.
        """
        self._check_writable()
        ids = list(ids)
        if len(ids) != len(items):  # type: ignore[arg-type]
            raise InputError(f"{len(ids)} ids for {len(items)} items")  # type: ignore[arg-type]
        if documents is not None and len(documents) != len(ids):
            raise InputError(f"{len(ids)} ids for {len(documents)} documents")
        if (documents is not None) != (len(self.documents) > 0) and self._ids:
            raise InputError("either all rows of an index come with their documents or none do")
        seen = set(self._positions)
        for each in ids:
            if each in seen:
                raise DuplicateIdError(f"the id {each!r} is in the index already, or given twice")
            seen.add(each)
        self._append(ids, items)
        for position, each in enumerate(ids, start=len(self._ids)):
            self._positions[each] = position
        self._ids.extend(ids)
        self.documents.extend(documents or ())

    def delete(self, ids: Iterable[str]) -> None:
        """Remove rows in memory; `save` commits the change.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
            InputError: an id is not in the index; nothing is removed then.
        """
        self._check_writable()
        ids = set(ids)
        unknown = sorted(ids - self._positions.keys())
        if unknown:
            raise InputError(f"not in the index: {', '.join(map(repr, unknown[:10]))}")
        for each in ids:
            self._ids[self._positions.pop(each)] = None

    def search(
        self, queries: Items, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Find the best documents for every query.

        Args:
            queries: as many as wanted, in the form that the index takes.
            k: how many hits a query at the most, at least 1.
            allowed: only these ids may be found; ids that the index does not have are ignored.

        Returns:
            For each query its hits, best first; fewer than `k` where fewer match.

        Raises:
            InputError: `k` is below 1.
            ShapeError: the queries' width differs from the index's.
        """
        if k < 1:
            raise InputError(f"k is {k}, expected at least 1")
        mask = self._mask(allowed)
        available = len(self) if mask is None else int(mask.sum())
        if not available:
            return [[] for _ in range(len(queries))]  # type: ignore[arg-type]
        rankings = self._search(queries, min(k, available), mask)
        return [
            [Hit(self._id_at(position), float(score)) for position, score in zip(*ranking)]
            for ranking in rankings
        ]

    def save(self) -> None:
        """Commit the index as a new version of its folder, atomically.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
        """
        self._check_writable()
        if self._folder is None:
            raise IndexFilesError("this index has no folder: make it with build or open")
        manifest = versions.Manifest(
            kind=self.kind,
            count=len(self),
            parameters=to_mapping(self.settings),
            model=self.model,
        )
        versions.commit(self._folder, manifest, self._write_all)

    def _write_all(self, version: Path) -> None:
        write_json(version / "ids.json", self._ids)
        self.documents.save(version)
        self._write(version)

    def _mask(self, allowed: Collection[str] | None) -> NDArray[np.bool_] | None:
        """True at the positions that may be found; None where all may."""
        if allowed is None and len(self._positions) == len(self._ids):
            return None
        mask = np.zeros(len(self._ids), np.bool_)
        wanted = self._positions if allowed is None else self._positions.keys() & set(allowed)
        mask[[self._positions[each] for each in wanted]] = True
        return mask

    def _id_at(self, position: int) -> str:
        identifier = self._ids[position]
        assert identifier is not None
        return identifier

    def _check_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyError(f"{self._folder}: opened for reading; open it with writable=True")

    def _learn(self, batches: Iterable[Batch[Items]]) -> None:
        """Learn centroids, codebooks or thresholds before the first row is added."""

    @abstractmethod
    def _append(self, ids: Sequence[str], items: Items) -> None:
        """Check and index the rows at the next positions; the ids are for error messages."""

    @abstractmethod
    def _search(self, queries: Items, k: int, mask: NDArray[np.bool_] | None) -> Iterable[Ranking]:
        """Yield each query's ranking over the positions that `mask` allows."""

    @abstractmethod
    def _write(self, version: Path) -> None:
        """Write the index's own files into an empty version."""

    @abstractmethod
    def _read(self, version: Path) -> None:
        """Read what `_write` wrote."""


def check_model(
    folder: Path, built_with: ModelReference | None, asked: ModelReference | None
) -> None:
    """Refuse to mix the vectors of two models.

    Raises:
        ModelMismatchError: both models are known and differ; the message names both.
    """
    if built_with is None or asked is None or built_with.fingerprint == asked.fingerprint:
        return
    raise ModelMismatchError(
        f"{folder}: built with {built_with.name} ({built_with.fingerprint[:12]}), opened with "
        f"{asked.name} ({asked.fingerprint[:12]}): use the first model or rebuild the index"
    )


def top_k(scores: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None) -> Ranking:
    """The best `k` positions of one row of scores; equal scores in order of position.

    >>> top_k(np.array([1, 3, 2], np.float32), 2, None)[0].tolist()
    [1, 2]
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    k = min(k, len(scores))
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    best = candidates[order]
    return best, scores[best].astype(np.float32)
