"""The documents that an index keeps beside its vectors, read one at a time from files."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.saved_rows import SavedRows
from retrieval.indexing.versions import Draft, Version
from retrieval.records import Document

_MERGED_BYTES = 1 << 26
"""A commit never writes more than this of texts that have not changed: a second's work."""


class StoredDocuments:
    """A list of documents by position: the saved ones mapped, the added ones in a spool file.

    Each is a JSON list of its fields.
    """

    def __init__(self) -> None:
        self._saved = SavedRows(prefix="documents", columns={"json": np.uint8}, limit=_MERGED_BYTES)
        self._spool: IO[bytes] | None = None
        self._spool_offsets = array("q", [0])

    @classmethod
    def open(cls, version: Version) -> StoredDocuments:
        """Map the documents of a version; empty where the index was built without documents."""
        stored = cls()
        stored._saved = stored._saved.opened(version)
        return stored

    def __len__(self) -> int:
        return len(self._saved) + len(self._spool_offsets) - 1

    def __getitem__(self, position: int) -> Document:
        try:
            return Document(*json.loads(self._json(position)))
        except (ValueError, TypeError) as error:
            raise IndexFilesError(
                f"the stored document at position {position} is damaged ({error}): "
                "rebuild the index"
            ) from error

    def extend(self, documents: Sequence[Document]) -> None:
        """Append documents; they are part of the index after the next `save`."""
        if not documents:
            return
        if self._spool is None:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the index
        for document in documents:
            encoded = json.dumps(list(document), ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
            self._spool.write(encoded)
            self._spool_offsets.append(self._spool_offsets[-1] + len(encoded))
        self._spool.flush()

    def write(self, draft: Draft) -> None:
        """Write the added documents; the others stay in their files."""
        self._saved.write(draft, self._added())

    def write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        """Write the saved documents that are left as one file."""
        self._saved.write_compacted(draft, live)

    def check(self, version: Path) -> None:
        """Read every document.

        Raises:
            IndexFilesError: one is damaged.
        """
        self._saved.check(version)
        for position in range(len(self)):
            self[position]

    def _added(self) -> RaggedRows:
        offsets = np.array(self._spool_offsets, np.int64)
        if self._spool is None or not offsets[-1]:
            return RaggedRows({"json": np.empty(0, np.uint8)}, offsets)
        return RaggedRows({"json": np.memmap(self._spool, np.uint8, mode="r")}, offsets)

    def _json(self, position: int) -> bytes:
        if position < len(self._saved):
            part, row = self._saved.locate(position)
            return part["json"][part.offsets[row] : part.offsets[row + 1]].tobytes()
        row = position - len(self._saved)
        start, end = self._spool_offsets[row : row + 2]
        assert self._spool is not None
        return os.pread(self._spool.fileno(), end - start, start)
