"""What all indexes share: ids, deletion, filters, stored documents, opening and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
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
    RetrievalError,
)
from retrieval.files import read_json, write_json
from retrieval.indexing import versions
from retrieval.indexing.documents import StoredDocuments
from retrieval.records import Document, Hit, ModelReference

Items = TypeVar("Items", bound=Sized)
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
    never change meaning: a deleted row stays where it was and is passed over. Ids are the caller's.

    Attributes:
        model: the encoder that made the vectors, or None.
        settings: the frozen dataclass that the index was built with. What concerns searching alone
            (`probes`, `ef_search`) can be changed: `index.settings = replace(index.settings, ...)`.
        documents: the stored documents by position; empty where none were given.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]

    def __init__(self, settings: Any = None, *, model: ModelReference | None = None) -> None:
        self.settings = settings if settings is not None else self.settings_type()
        self.model = model
        self.documents = StoredDocuments()
        self._folder: Path | None = None
        self._version: Path | None = None
        self._writable = True
        self._ids: list[str | None] = []
        self._positions: dict[str, int] = {}
        self._live: NDArray[np.bool_] | None = None

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
            batches: gone through twice by indexes that learn from a sample first; those hold the
                batches of a one-shot iterator in memory.
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
        if cls._learn is not Index._learn:
            batches = list(batches) if iter(batches) is batches else batches
            index._learn(_even(batches))
        for batch in batches:
            index.add(batch.ids, batch.items, documents=batch.documents)
        index._folder = folder
        index._commit(overwrite=overwrite)
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
        version = versions.current_version(folder)
        try:
            return cls._open(folder, version, model=model, writable=writable)
        except (RetrievalError, FileNotFoundError):
            # A writer may have replaced the version while it was being read.
            newer = versions.current_version(folder)
            if newer == version:
                raise
        return cls._open(folder, newer, model=model, writable=writable)

    @classmethod
    def _open(
        cls, folder: Path, version: Path, *, model: ModelReference | None, writable: bool
    ) -> Self:
        manifest = versions.read_manifest(folder, version)
        if manifest.kind != cls.kind:
            raise IndexFilesError(f"{folder}: holds a {manifest.kind} index, not {cls.kind}")
        check_model(folder, manifest.model, model)
        source = f"{folder}: parameters"
        settings = from_mapping(cls.settings_type, manifest.parameters, source=source)
        index = cls(settings, model=manifest.model)
        index._folder, index._version, index._writable = folder, version, writable
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
        """The stored document, or None where the index was built without documents.

        Raises:
            InputError: the id is not in the index.
        """
        position = self._position(document_id)
        return self.documents[position] if position < len(self.documents) else None

    def add(
        self, ids: Sequence[str], items: Items, *, documents: Sequence[Document] | None = None
    ) -> None:
        """Append rows in memory; `save` commits them.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
            DuplicateIdError: an id is in the index already, or twice in `ids`.
            InputError: `ids`, `items` and `documents` differ in number, or an id is no string.
            EmbeddingError, ShapeError: as in `build`; nothing is added then.
        """
        self._check_writable()
        ids = _id_list(ids)
        _check_number(ids, items)
        if documents is not None and len(documents) != len(ids):
            raise InputError(f"{len(ids)} ids for {len(documents)} documents")
        if (documents is not None) != (len(self.documents) > 0) and self._ids:
            raise InputError("either all rows of an index come with their documents or none do")
        seen: set[str] = set()
        for each in ids:
            if each in self._positions or each in seen:
                raise DuplicateIdError(f"the id {each!r} is in the index already, or given twice")
            seen.add(each)
        if not ids:
            return
        self._append(ids, items)
        self._positions.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids))))
        self._ids.extend(ids)
        self._live = None
        self.documents.extend(documents or ())

    def delete(self, ids: Iterable[str]) -> None:
        """Remove rows in memory; `save` commits the change.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
            InputError: an id is not in the index; nothing is removed then.
        """
        self._check_writable()
        gone = set(_id_list(ids))
        unknown = sorted(each for each in gone if each not in self._positions)
        if unknown:
            raise InputError(f"not in the index: {', '.join(map(repr, unknown[:10]))}")
        for each in gone:
            self._ids[self._positions.pop(each)] = None
        self._live = None
        self._forget()

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
            return [[] for _ in range(len(queries))]
        rankings = self._search(queries, min(k, available), mask)
        return [
            [Hit(self._id_at(position), float(score)) for position, score in zip(*ranking)]
            for ranking in rankings
        ]

    def save(self) -> None:
        """Commit the index as a new version of its folder, atomically.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`.
            IndexFilesError: another writer has saved in the meantime; its version stays.
        """
        self._check_writable()
        self._commit()

    def _commit(self, *, overwrite: bool = False) -> None:
        if self._folder is None:
            raise IndexFilesError("this index has no folder: make it with build or open")
        manifest = versions.Manifest(
            kind=self.kind,
            count=len(self),
            parameters=to_mapping(self.settings),
            model=self.model,
        )
        self._version = versions.commit(
            self._folder, manifest, self._write_all, replaces=self._version, overwrite=overwrite
        )

    def _write_all(self, version: Path) -> None:
        write_json(version / "ids.json", self._ids)
        self.documents.save(version)
        self._write(version)

    def _mask(self, allowed: Collection[str] | None) -> NDArray[np.bool_] | None:
        """True at the positions that may be found; None where all may."""
        if allowed is None:
            return None if len(self._positions) == len(self._ids) else self._live_positions()
        mask = np.zeros(len(self._ids), np.bool_)
        mask[[self._positions[each] for each in _id_list(allowed) if each in self._positions]] = (
            True
        )
        return mask

    def _live_positions(self) -> NDArray[np.bool_]:
        """True at the positions whose documents have not been deleted."""
        if self._live is None:
            self._live = np.fromiter((each is not None for each in self._ids), np.bool_)
        return self._live

    def _position(self, document_id: str) -> int:
        if document_id not in self._positions:
            raise InputError(f"not in the index: {document_id!r}")
        return self._positions[document_id]

    def _id_at(self, position: int) -> str:
        identifier = self._ids[position]
        assert identifier is not None
        return identifier

    def _check_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyError(f"{self._folder}: opened for reading; open it with writable=True")

    def _learn(self, batches: Iterable[Batch[Items]]) -> None:
        """Learn centroids, codebooks or thresholds before the first row is added."""

    def _forget(self) -> None:
        """Drop what was computed from rows that have just been deleted."""

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


def _even(batches: Iterable[Batch[Items]]) -> Iterator[Batch[Items]]:
    """The batches, each with as many items as ids: those to learn from never pass by `add`."""
    for batch in batches:
        _check_number(batch.ids, batch.items)
        yield batch


def _check_number(ids: Sequence[str], items: Sized) -> None:
    if len(ids) != len(items):
        raise InputError(f"{len(ids)} ids for {len(items)} items")


def _id_list(ids: Iterable[str]) -> list[str]:
    """The ids as a list; one string in place of a list would be read letter by letter."""
    if isinstance(ids, str):
        raise InputError(f"expected several ids, got one string {ids!r}: put it into a list")
    listed = list(ids)
    wrong = next((each for each in listed if not isinstance(each, str)), None)
    if wrong is not None:
        raise InputError(f"the id {wrong!r} is a {type(wrong).__name__}: ids are strings")
    return listed


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

    A score of -inf is no match: fewer than `k` positions come back where fewer match.

    >>> top_k(np.array([1, 3, -np.inf, 2, 3], np.float32), 3, None)[0].tolist()
    [1, 4, 3]
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    candidates = np.flatnonzero(scores > -np.inf)
    if len(candidates) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    best = candidates[order]
    return best, scores[best].astype(np.float32)
