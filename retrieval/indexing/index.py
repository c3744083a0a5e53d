"""What all indexes share: ids, deletion, filters, stored documents, opening and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import (
    DuplicateIdError,
    IndexFilesError,
    InputError,
    RetrievalError,
)
from retrieval.indexing import versions
from retrieval.indexing.batches import (
    Batch,
    Items,
    check_batch,
    check_model,
    even_batches,
    id_list,
)
from retrieval.indexing.documents import StoredDocuments
from retrieval.indexing.locking import WriterLock
from retrieval.indexing.ranking import Ranking, top_k
from retrieval.indexing.storage import Storage
from retrieval.indexing.versions import Draft, Manifest, Version
from retrieval.records import Allowed, Document, Hit, ModelReference

__all__ = ["Batch", "Index", "Items", "Ranking", "check_model", "top_k"]


class Index(ABC, Generic[Items]):
    """A searchable set of documents by string id, saved as versions in one folder.

    A change becomes visible to others with `save`, which is atomic. Ids are the caller's. Positions
    are internal: a deleted row stays where it was, and is passed over, until `compact` drops it.
    One writer at a time: from `build` or `open(writable=True)` until `close`, the end of a `with`
    block, or until the object is gone. Readers keep what they opened.

    Attributes:
        model: the encoder that made the vectors, or None.
        settings: the frozen dataclass that the index was built with. What concerns searching alone
            (`probes`, `ef_search`) can be changed: `index.settings = replace(index.settings, ...)`.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]

    def __init__(self, settings: Any = None, *, model: ModelReference | None = None) -> None:
        self.settings = settings if settings is not None else self.settings_type()
        self.model = model
        self._storage = Storage()

    @classmethod
    def build(
        cls,
        folder: str | Path,
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

        Returns:
            The index, open for changes: close it before it is opened for changes elsewhere.

        Raises:
            IndexFilesError: `folder` holds an index and `overwrite` is False, or somebody is
                writing there.
            DuplicateIdError: an id comes twice.
            EmbeddingError: an embedding is NaN or infinite.
            ShapeError: embeddings of different widths.
        """
        folder = Path(folder)
        index = cls(settings, model=model)
        index._storage = Storage(folder, WriterLock(folder))
        try:
            if (folder / "CURRENT").exists() and not overwrite:
                raise IndexFilesError(f"{folder}: holds an index already (--overwrite replaces it)")
            index._build(batches)
            index._saved(
                index._storage.commit(index._manifest(), index._write, overwrite=overwrite)
            )
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def open(
        cls, folder: str | Path, *, model: ModelReference | None = None, writable: bool = False
    ) -> Self:
        """Open the current version.

        Args:
            folder: as given to `build`.
            model: the encoder that queries will come from; None skips the comparison.
            writable: allow `add`, `delete` and `save`, here and nowhere else.

        Raises:
            IndexFilesError: no index here, one of another kind, damaged files, or somebody else is
                writing.
            ModelMismatchError: the index was filled by another model.
        """
        folder = Path(folder)
        version = versions.current_version(folder)
        if writable:
            lock = WriterLock(folder)
            try:
                versions.remove_others(folder)
                return cls._open(folder, versions.current_version(folder), model, lock)
            except BaseException:
                lock.release()
                raise
        try:
            return cls._open(folder, version, model)
        except (RetrievalError, FileNotFoundError):
            # A writer may have replaced the version while it was being read.
            newer = versions.current_version(folder)
            if newer == version:
                raise
        return cls._open(folder, newer, model)

    @classmethod
    def _open(
        cls,
        folder: Path,
        path: Path,
        model: ModelReference | None,
        lock: WriterLock | None = None,
    ) -> Self:
        manifest = versions.read_manifest(folder, path)
        if manifest.kind != cls.kind:
            raise IndexFilesError(f"{folder}: holds a {manifest.kind} index, not {cls.kind}")
        check_model(folder, manifest.model, model)
        source = f"{folder}: parameters"
        settings = from_mapping(cls.settings_type, manifest.parameters, source=source)
        index = cls(settings, model=manifest.model)
        version = Version(path, manifest.files)
        index._storage = Storage(folder, lock)
        index._storage.attach(version)
        index._read(version)
        return index

    def close(self) -> None:
        """Let others write; changes that were not saved are lost. Searching goes on working."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def folder(self) -> Path | None:
        """Where the index is saved; None for one that was neither built nor opened."""
        return self._storage.folder

    @property
    def documents(self) -> StoredDocuments:
        """The stored documents by position; empty where none were given."""
        return self._storage.documents

    def __len__(self) -> int:
        return len(self._storage.ids)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self._storage.ids

    def document(self, document_id: str) -> Document | None:
        """The stored document, or None where the index was built without documents.

        Raises:
            InputError: the id is not in the index.
        """
        position = int(self._positions([document_id])[0])
        return self.documents[position] if position < len(self.documents) else None

    def add(
        self, ids: Sequence[str], items: Items, *, documents: Sequence[Document] | None = None
    ) -> None:
        """Append rows in memory; `save` commits them.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`, or is closed.
            DuplicateIdError: an id is in the index already, or twice in `ids`.
            InputError: `ids`, `items` and `documents` differ in number, or an id is no string.
            EmbeddingError, ShapeError: as in `build`; nothing is added then.
        """
        self._storage.check_writable()
        ids = id_list(ids)
        check_batch(ids, items, documents)
        found = np.flatnonzero(self._storage.ids.positions(ids) >= 0)
        if len(found):
            raise DuplicateIdError(
                f"the id {ids[found[0]]!r} is in the index already: upsert replaces documents"
            )
        self._insert(ids, items, documents)

    def upsert(
        self, ids: Sequence[str], items: Items, *, documents: Sequence[Document] | None = None
    ) -> None:
        """Replace the rows of ids that are there and append the others; `save` commits them.

        Raises:
            As in `add`, but that an id may be there already.
        """
        self._storage.check_writable()
        ids = id_list(ids)
        check_batch(ids, items, documents)
        positions = self._storage.ids.positions(ids)
        self._insert(ids, items, documents, replaced=positions[positions >= 0])

    def delete(self, ids: Iterable[str]) -> None:
        """Remove rows in memory; `save` commits the change.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`, or is closed.
            InputError: an id is not in the index; nothing is removed then.
        """
        self._storage.check_writable()
        self._remove(self._positions(sorted(set(id_list(ids)))))

    def search(
        self, queries: Items, k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """Find the best documents for every query.

        Args:
            queries: as many as wanted, in the form that the index takes.
            k: how many hits a query at the most, at least 1.
            allowed: only these ids may be found, those that the index does not have are ignored; or
                a function of a stored document, which is asked about every one of them.

        Returns:
            For each query its hits, best first; fewer than `k` where fewer match.

        Raises:
            InputError: `k` is below 1, or a function where no documents are kept.
            ShapeError: the queries' width differs from the index's.
        """
        if k < 1:
            raise InputError(f"k is {k}, expected at least 1")
        mask = self._storage.mask(allowed)
        available = len(self) if mask is None else int(np.count_nonzero(mask))
        if not available:
            return [[] for _ in range(len(queries))]
        rankings = self._search(queries, min(k, available), mask)
        ids = self._storage.ids
        return [
            list(map(Hit._make, zip(ids.at(positions), scores.tolist())))
            for positions, scores in rankings
        ]

    def save(self) -> None:
        """Commit the changes as a new version of the folder, atomically.

        It takes time in proportion to the change: files of rows that have not changed are kept,
        but small ones are now and then written together.

        Raises:
            ReadOnlyError: the index was opened without `writable=True`, or is closed.
        """
        self._storage.check_writable()
        self._saved(self._storage.commit(self._manifest(), self._write))

    def compact(self) -> None:
        """Write the index anew without its deleted rows, each array as one file, and commit it.

        Changes that were not saved are committed first.

        Raises:
            As `save`.
        """
        if self._storage.is_changed:
            self.save()
        self._storage.check_writable()
        live = self._storage.live()
        self._read(
            self._storage.commit_compacted(
                self._manifest(), lambda draft: self._write_compacted(draft, live)
            )
        )

    def check(self) -> None:
        """Read the saved files from one end to the other, and hold them against each other.

        Raises:
            IndexFilesError: they contradict each other.
        """
        self._check(self._storage.check())

    def _build(self, batches: Iterable[Batch[Items]]) -> None:
        """Learn from the batches, where there is something to learn, and add them."""
        if type(self)._learn is not Index._learn:
            batches = list(batches) if iter(batches) is batches else batches
            self._learn(even_batches(batches))
        for batch in batches:
            self.add(batch.ids, batch.items, documents=batch.documents)

    def _insert(
        self,
        ids: Sequence[str],
        items: Items,
        documents: Sequence[Document] | None,
        replaced: NDArray[np.int64] | None = None,
    ) -> None:
        if (documents is not None) != (len(self.documents) > 0) and self._storage.ids.rows:
            raise InputError("either all rows of an index come with their documents or none do")
        if not ids:
            return
        self._append(ids, items)
        if replaced is not None:
            self._remove(replaced)
        self._storage.ids.extend(ids)
        self.documents.extend(documents or ())
        self._storage.is_changed = True

    def _remove(self, positions: NDArray[np.int64]) -> None:
        if len(positions):
            self._storage.ids.delete(positions)
            self._storage.is_changed = True
            self._forget()

    def _manifest(self) -> Manifest:
        return Manifest(
            kind=self.kind,
            count=len(self),
            parameters=to_mapping(self.settings),
            model=self.model,
        )

    def _positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self._storage.ids.positions(ids)
        if (positions < 0).any():
            unknown = [ids[at] for at in np.flatnonzero(positions < 0)[:10]]
            raise InputError(f"not in the index: {', '.join(map(repr, unknown))}")
        return positions

    def _learn(self, batches: Iterable[Batch[Items]]) -> None:
        """Learn centroids, codebooks or thresholds before the first row is added."""

    def _forget(self) -> None:
        """Drop what was computed from rows that have just been deleted."""

    def _saved(self, version: Version) -> None:
        """Map what `_write` has just written in place of what is in memory."""
        self._read(version)

    @abstractmethod
    def _append(self, ids: Sequence[str], items: Items) -> None:
        """Check and index the rows at the next positions; the ids are for error messages."""

    @abstractmethod
    def _search(self, queries: Items, k: int, mask: NDArray[np.bool_] | None) -> Iterable[Ranking]:
        """Yield each query's ranking over the positions that `mask` allows."""

    @abstractmethod
    def _write(self, draft: Draft) -> None:
        """Write the index's own files into a draft, or keep those that are as they were.

        Nothing in memory may change: the commit can still fail.
        """

    @abstractmethod
    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        """Write the live rows, all of them saved, as `_read` reads them."""

    @abstractmethod
    def _read(self, version: Version) -> None:
        """Read what `_write` or `_write_compacted` wrote."""

    @abstractmethod
    def _check(self, version: Path) -> None:
        """Raise IndexFilesError where the index's own files contradict each other."""
