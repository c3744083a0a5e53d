"""The documents that an index keeps beside its vectors, read one at a time from a mapped file."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.files import atomic_write, map_arrays, save_arrays
from retrieval.records import Document

_TEXTS = "documents.jsonl"
_OFFSETS = "documents.offsets.safetensors"


class StoredDocuments:
    """A list of documents by position: the saved ones stay on disk, the added ones in memory."""

    def __init__(self) -> None:
        self._mapped: mmap.mmap | None = None
        self._offsets = np.zeros(1, np.int64)
        self._added: list[Document] = []

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
        return len(self._offsets) - 1 + len(self._added)

    def __getitem__(self, position: int) -> Document:
        saved = len(self._offsets) - 1
        if position >= saved:
            return self._added[position - saved]
        return Document(*json.loads(self._line(position)))

    def extend(self, documents: Sequence[Document]) -> None:
        """Append documents; they are on disk after the next `save`."""
        self._added.extend(documents)

    def save(self, version: Path) -> None:
        """Write all documents into a version's folder; writes nothing where there are none."""
        if not len(self):
            return
        lengths: list[int] = []
        with atomic_write(version / _TEXTS) as stream:
            for position in range(len(self)):
                document = self[position]
                line = json.dumps(list(document), ensure_ascii=False).encode() + b"\n"
                lengths.append(len(line))
                stream.write(line)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        save_arrays(version / _OFFSETS, {"offsets": offsets})

    def _line(self, position: int) -> bytes:
        assert self._mapped is not None
        return self._mapped[int(self._offsets[position]) : int(self._offsets[position + 1])]
