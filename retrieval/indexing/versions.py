"""An index on disk: a folder of complete versions and one pointer that names the current one.

    INDEX/CURRENT                      "000002", replaced atomically
    INDEX/versions/000002/manifest.json  kind, parameters, model, size and SHA-256 of every file
    INDEX/versions/000002/...            arrays, ids, stored documents

A crash at any moment leaves CURRENT naming a complete version, the old one or the new one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import atomic_write, read_json, sha256, sync_folder, write_json
from retrieval.records import ModelReference

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index says of itself."""

    kind: str
    count: int
    parameters: dict[str, Any]
    model: ModelReference | None


def current_version(folder: Path) -> Path:
    """The folder of the version that readers open.

    Raises:
        IndexFilesError: `folder` holds no index.
    """
    pointer = folder / "CURRENT"
    if not pointer.is_file():
        raise IndexFilesError(f"{folder}: no index here (no file CURRENT)")
    name = pointer.read_text("utf-8").strip()
    version = folder / "versions" / name
    if not name.isdigit() or not version.is_dir():
        raise IndexFilesError(f"{folder}: CURRENT names the version {name!r}, which is not there")
    return version


def read_manifest(folder: Path, version: Path | None = None) -> Manifest:
    """Read the manifest of the current version and check that its files have their sizes.

    Args:
        folder: the index.
        version: one of its versions, in place of the current one.

    Raises:
        IndexFilesError: there is no index, a file is missing or has another size, or the format
            is of a newer release.
    """
    version = version or current_version(folder)
    try:
        fields = read_json(version / "manifest.json")
        format_version, files, model = fields["format_version"], fields["files"], fields["model"]
        manifest = Manifest(
            kind=fields["kind"],
            count=fields["count"],
            parameters=fields["parameters"],
            model=ModelReference(**model) if model else None,
        )
        sizes = {name: entry["bytes"] for name, entry in files.items()}
    except (RetrievalError, AttributeError, KeyError, TypeError) as error:
        raise IndexFilesError(
            f"{version / 'manifest.json'}: damaged ({error}): rebuild the index"
        ) from error
    if format_version > FORMAT_VERSION:
        raise IndexFilesError(
            f"{folder}: format {format_version} is newer than this release reads "
            f"({FORMAT_VERSION}): upgrade modernbert-retrieval"
        )
    for name, expected in sizes.items():
        path = version / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            found = "is missing" if size is None else f"has {size} bytes"
            raise IndexFilesError(f"{path}: {found}, expected {expected}: rebuild the index")
    return manifest


def check_bytes(version: Path, name: str | None = None) -> None:
    """Compare the SHA-256 of one file of a version, or of all, with the manifest.

    Raises:
        IndexFilesError: a file differs from what was written.
    """
    files = read_json(version / "manifest.json")["files"]
    for each in [name] if name else files:
        if sha256(version / each) != files[each]["sha256"]:
            raise IndexFilesError(
                f"{version / each}: changed since it was written (SHA-256 differs): "
                "rebuild the index"
            )


def commit(
    folder: Path,
    manifest: Manifest,
    write: Callable[[Path], None],
    *,
    replaces: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a new version and make it the current one; older versions are removed.

    Args:
        folder: the index; created if missing.
        manifest: what to record; sizes and checksums are added here.
        write: fills the empty folder that it is given.
        replaces: the version that the new one was made from; None where it is the first.
        overwrite: replace whatever is current, without a look at `replaces`.

    Returns:
        The folder of the new version.

    Raises:
        IndexFilesError: somebody else is writing, or the current version is not `replaces`, so
            that somebody's changes would be lost.
    """
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    with _sole_writer(folder):
        if not overwrite:
            _check_current(folder, replaces)
        taken = [int(path.name) for path in versions.iterdir() if path.name.isdigit()]
        name = f"{max(taken, default=0) + 1:06d}"
        draft = versions / f".{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            write(draft)
            _write_manifest(draft, manifest)
            draft.rename(versions / name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(versions)
        with atomic_write(folder / "CURRENT") as stream:
            stream.write(f"{name}\n".encode())
        for path in versions.iterdir():
            if path.name != name:
                shutil.rmtree(path, ignore_errors=True)
    return versions / name


def _check_current(folder: Path, expected: Path | None) -> None:
    current = current_version(folder) if (folder / "CURRENT").exists() else None
    if current != expected:
        raise IndexFilesError(
            f"{folder}: another writer has saved since this index was opened or built: open it "
            "again and repeat the change"
        )


def _write_manifest(draft: Path, manifest: Manifest) -> None:
    """Describe the files of a draft, once every byte of them is on disk."""
    files = {}
    for path in sorted(draft.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(
        draft / "manifest.json",
        {
            "format_version": FORMAT_VERSION,
            "kind": manifest.kind,
            "count": manifest.count,
            "parameters": manifest.parameters,
            "model": manifest.model._asdict() if manifest.model else None,
            "files": files,
        },
    )


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system gives back even if this process is killed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IndexFilesError(f"{folder}: another writer is saving this index") from error
        yield
    finally:
        os.close(descriptor)


def index_bytes(folder: Path) -> int:
    """The bytes that the current version takes on disk, stored documents not counted."""
    version = current_version(folder)
    return sum(
        path.stat().st_size for path in version.iterdir() if not path.name.startswith("documents.")
    )
