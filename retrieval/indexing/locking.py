"""The lock of an index's folder: one writer at a time, and the next one is told who it is."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Self

from retrieval.errors import IndexFilesError

_NAME = "LOCK"


class WriterLock:
    """Held from the moment that it is made until it is released or collected.

    The system gives it back even if the process is killed. The file stays: it holds the process id
    of its last owner, and a lock on a file that may be removed would lock nothing.

    Attributes:
        folder: the index; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            IndexFilesError: somebody else has it; the message says which process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise IndexFilesError(
                f"{folder}: {_whose(owner)} is writing to this index: close it there first"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._finalizer = weakref.finalize(self, _release, descriptor, os.getpid())

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        self._finalizer()

    @property
    def is_held(self) -> bool:
        """Whether it has not been released yet."""
        return self._finalizer.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _whose(owner: str) -> str:
    if not owner.isdigit():
        return "another process"
    return f"this process ({owner})" if int(owner) == os.getpid() else f"process {owner}"


def _release(descriptor: int, owner: int) -> None:
    # A forked child shares the lock: it must not give back what its parent still holds.
    if os.getpid() == owner:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
