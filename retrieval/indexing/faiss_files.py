"""FAISS indexes in files: verified, then memory-mapped, and read into memory before they grow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from retrieval.indexing import versions

# The type stubs that FAISS ships lack its search parameters, so that it is imported untyped.
faiss: Any = importlib.import_module("faiss")


class FaissFile:
    """A FAISS index, and the file that it was read from as long as that is mapped.

    Attributes:
        index: of FAISS; add rows with `add` alone.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self._mapped: IO[bytes] | None = None

    @classmethod
    def open(cls, version: Path, name: str, *, is_binary: bool = False) -> FaissFile:
        """Map one file of a version: codes and lists are read when a search touches them.

        Raises:
            IndexFilesError: the file has changed since it was written.
        """
        # FAISS trusts what it reads: a flipped bit can give wrong answers, hang or take gigabytes.
        versions.check_bytes(version, name)
        read = faiss.read_index_binary if is_binary else faiss.read_index
        opened = cls(read(str(version / name), faiss.IO_FLAG_MMAP_IFC))
        # Kept open, because the path may be gone when rows are added: a newer version took over.
        opened._mapped = open(version / name, "rb")  # noqa: SIM115
        return opened

    @property
    def is_mapped(self) -> bool:
        """Whether codes and lists are still those of the file."""
        return self._mapped is not None

    def add(self, rows: np.ndarray[Any, Any]) -> None:
        """Append rows, (N, D) float32 or (N, bytes) of bits."""
        self.own()
        self.index.add(np.ascontiguousarray(rows))

    def own(self) -> None:
        """Read the whole index into memory, where it can change."""
        if self._mapped is None:
            return
        # FAISS ends the process where a mapped array would have to grow.
        is_binary = isinstance(self.index, faiss.IndexBinary)
        read = faiss.read_index_binary if is_binary else faiss.read_index
        with self._mapped as stream:
            self.index = read(faiss.PyCallbackIOReader(stream.read))
        self._mapped = None

    def write(self, path: Path) -> None:
        """Write the index to a new file."""
        is_binary = isinstance(self.index, faiss.IndexBinary)
        write = faiss.write_index_binary if is_binary else faiss.write_index
        write(self.index, str(path))
