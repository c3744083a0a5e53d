"""Versions without an index around them, for the tests of what is stored in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval.indexing.locking import WriterLock
from retrieval.indexing.versions import (
    Draft,
    Manifest,
    Version,
    commit,
    current_version,
    read_manifest,
)

MANIFEST = Manifest(kind="test", count=0, parameters={}, model=None)


def save(folder: Path, write: Callable[[Draft], object]) -> Version:
    """Commit what `write` writes on top of the current version."""

    def write_draft(draft: Draft) -> None:
        write(draft)

    with WriterLock(folder) as lock:
        replaces = current_version(folder) if (folder / "CURRENT").exists() else None
        path = commit(lock, MANIFEST, write_draft, replaces=replaces)
    return Version(path, read_manifest(folder).files)


def inodes(version: Version) -> dict[str, int]:
    """The files of a version: one that is kept has the number that it had before."""
    return {name: (version.path / name).stat().st_ino for name in version.files}
