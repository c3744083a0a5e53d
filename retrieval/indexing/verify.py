"""Reading an index from one end to the other, to see that nothing in it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from retrieval.errors import IndexFilesError
from retrieval.indexing import open_index
from retrieval.indexing.versions import check_bytes, current_version, read_manifest


class Verified(NamedTuple):
    """What was found whole."""

    kind: str
    version: str
    documents: int
    files: int
    bytes: int


def verify_index(folder: str | Path) -> Verified:
    """Compare every byte of the current version with its manifest, and the files with each other.

    It needs no memory to speak of and takes as long as reading the files.

    Raises:
        IndexFilesError: no index there, or one that was damaged; the message names the file.
    """
    folder = Path(folder)
    version = current_version(folder)
    manifest = read_manifest(folder, version)
    # Bytes first: what is read below may be trusted then.
    check_bytes(version)
    index = open_index(folder)
    index.check()
    if len(index) != manifest.count:
        raise IndexFilesError(
            f"{version}: {len(index)} documents, the manifest says {manifest.count}: rebuild"
        )
    return Verified(
        kind=manifest.kind,
        version=version.name,
        documents=len(index),
        files=len(manifest.files),
        bytes=sum(entry.bytes for entry in manifest.files.values()),
    )
