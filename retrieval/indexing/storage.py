"""Where an index is saved: its folder and lock, its ids and documents, and the next version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, InputError, ReadOnlyError
from retrieval.indexing import versions
from retrieval.indexing.batches import id_list
from retrieval.indexing.documents import StoredDocuments
from retrieval.indexing.ids import DocumentIds
from retrieval.indexing.locking import WriterLock
from retrieval.indexing.versions import Draft, Manifest, Version
from retrieval.records import Allowed


class Storage:
    """What an index of any kind keeps, beside what it searches.

    Attributes:
        folder: where it is saved; None for an index that was neither built nor opened.
        ids: the ids by position.
        documents: the stored documents by position; empty where there are none.
        is_changed: whether something is not saved yet.
    """

    def __init__(self, folder: Path | None = None, lock: WriterLock | None = None) -> None:
        self.folder = folder
        self.ids = DocumentIds()
        self.documents = StoredDocuments()
        self.is_changed = False
        self._lock = lock
        self._version: Path | None = None

    def attach(self, version: Version) -> None:
        """Map what a version has in place of what is in memory."""
        self.ids = DocumentIds.open(version)
        self._version = version.path
        self.documents = StoredDocuments.open(version)
        self.is_changed = False

    def check_writable(self) -> None:
        """Refuse changes that could not be saved.

        Raises:
            ReadOnlyError: the folder was opened for reading, or is closed.
        """
        if self.folder is not None and self._lock is None:
            raise ReadOnlyError(
                f"{self.folder}: opened for reading, or closed: open it with writable=True"
            )

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def commit(
        self, manifest: Manifest, write: Callable[[Draft], None], *, overwrite: bool = False
    ) -> Version:
        """Commit a version with what has changed, and map it.

        Args:
            manifest: of the version.
            write: writes the files of what is searched.
            overwrite: replace the current version, whichever it is.
        """

        def write_all(draft: Draft) -> None:
            self.ids.write(draft)
            self.documents.write(draft)
            write(draft)

        return self._commit(manifest, write_all, overwrite)

    def commit_compacted(self, manifest: Manifest, write: Callable[[Draft], None]) -> Version:
        """Commit a version without the deleted rows, and map it; all changes are saved before."""
        live = self.live()

        def write_all(draft: Draft) -> None:
            self.ids.write_compacted(draft, live)
            self.documents.write_compacted(draft, live)
            write(draft)

        return self._commit(manifest, write_all, False)

    def live(self) -> NDArray[np.bool_]:
        """(rows,) True at the positions whose documents have not been deleted."""
        live = self.ids.live
        return np.ones(self.ids.rows, np.bool_) if live is None else live

    def mask(self, allowed: Allowed | None) -> NDArray[np.bool_] | None:
        """True at the positions that may be found; None where all may.

        Raises:
            InputError: a function, where no documents are kept; or ids that are no strings.
        """
        if allowed is None:
            return self.ids.live
        mask = np.zeros(self.ids.rows, np.bool_)
        if not callable(allowed):
            positions = self.ids.positions(id_list(allowed))
            mask[positions[positions >= 0]] = True
            return mask
        if self.ids.rows and not len(self.documents):
            raise InputError("this index keeps no documents that a function could be asked about")
        for position in np.flatnonzero(self.live()):
            mask[position] = allowed(self.documents[int(position)])
        return mask

    def check(self) -> Path:
        """Read all ids and documents, and hold them against each other.

        Returns:
            The folder of the version.

        Raises:
            IndexFilesError: they contradict each other.
        """
        assert self._version is not None, "only what was saved can be checked"
        self.ids.check(self._version)
        self.documents.check(self._version)
        if len(self.documents) not in (0, self.ids.rows):
            raise IndexFilesError(
                f"{self._version}: {len(self.documents)} documents for {self.ids.rows} rows: "
                "rebuild the index"
            )
        return self._version

    def _commit(
        self, manifest: Manifest, write: Callable[[Draft], None], overwrite: bool
    ) -> Version:
        if self.folder is None or self._lock is None:
            raise IndexFilesError("this index has no folder: make it with build or open")
        path = versions.commit(
            self._lock, manifest, write, replaces=self._version, overwrite=overwrite
        )
        version = Version(path, versions.read_manifest(self.folder, path).files)
        self.attach(version)
        return version
