"""The documents that an index keeps beside its vectors, read one at a time from files."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from retrieval.files import atomic_write, map_arrays, save_arrays
from retrieval.records import Document

_TEXTS = "documents.jsonl"
_OFFSETS = "documents.offsets.safetensors"


class StoredDocuments:
    """A list of documents by position: the saved ones mapped, the added ones in a spool file."""

    def __init__(self) -> None:
        self._mapped: mmap.mmap | None = None
        self._offsets = np.zeros(1, np.int64)
        self._spool: IO[bytes] | None = None
        self._spool_offsets = array("q", [0])

    @classmethod
    def open(cls, version: Path) -> StoredDocuments:
        """Map the documents of a version; empty where the index was built without documents."""
        stored = cls()
        path = version / _TEXTS
        if path.is_file() and path.stat().st_size:
            stored._offsets = map_arrays(version / _OFFSETS)["offsets"]
            with open(path, "rb") as stream:
                stored._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return stored

    def __len__(self) -> int:
        return len(self._offsets) - 1 + len(self._spool_offsets) - 1

    def __getitem__(self, position: int) -> Document:
        return Document(*json.loads(self._line(position)))

    def extend(self, documents: Sequence[Document]) -> None:
        """Append documents; they are part of the index after the next `save`."""
        if not documents:
            return
        if self._spool is None:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the index
        for document in documents:
            line = json.dumps(list(document), ensure_ascii=False).encode() + b"\n"
            self._spool.write(line)
            self._spool_offsets.append(self._spool_offsets[-1] + len(line))
        self._spool.flush()

    def save(self, version: Path) -> None:
        """Write all documents into a version's folder; writes nothing where there are none."""
        if not len(self):
            return
        with atomic_write(version / _TEXTS) as stream:
            if self._mapped is not None:
                stream.write(self._mapped)
            if self._spool is not None:
                self._spool.seek(0)
                shutil.copyfileobj(self._spool, stream)
        added = np.array(self._spool_offsets[1:], np.int64) + self._offsets[-1]
        save_arrays(version / _OFFSETS, {"offsets": np.concatenate([self._offsets, added])})

    def _line(self, position: int) -> bytes:
        saved = len(self._offsets) - 1
        if position < saved:
            assert self._mapped is not None
            return self._mapped[int(self._offsets[position]) : int(self._offsets[position + 1])]
        start, end = self._spool_offsets[position - saved : position - saved + 2]
        assert self._spool is not None
        return os.pread(self._spool.fileno(), end - start, start)
