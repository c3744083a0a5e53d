"""An index on disk: a folder of complete versions and one pointer that names the current one.

    INDEX/CURRENT                      "000002", replaced atomically
    INDEX/LOCK                         locked by the writer, with its process id
    INDEX/versions/000002/manifest.json  kind, parameters, model, size and SHA-256 of every file
    INDEX/versions/000002/...            arrays, ids, stored documents

A crash at any moment leaves CURRENT naming a complete version, the old one or the new one. Files
never change once they are written: a version shares those that are as they were with the version
that it was made from, by hard links, so that a commit reads and writes only what is new.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import atomic_write, read_json, sha256, sync_folder, write_json
from retrieval.indexing.locking import WriterLock
from retrieval.records import ModelReference

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


class FileEntry(NamedTuple):
    """What the manifest says of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index says of itself."""

    kind: str
    count: int
    parameters: dict[str, Any]
    model: ModelReference | None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """By name; `commit` fills it in."""


class Version(NamedTuple):
    """A complete version."""

    path: Path
    files: Collection[str]
    """The names in its manifest; whatever else lies in the folder is none of its business."""

    def numbered(self, pattern: str) -> list[tuple[int, str]]:
        """The numbers and names that match, such as r"ids\\.(\\d+)\\.safetensors", ascending."""
        found = ((re.fullmatch(pattern, name), name) for name in self.files)
        return sorted((int(match[1]), name) for match, name in found if match)


class Draft:
    """A version that is being written.

    Attributes:
        path: its folder; files are written there under new names.
    """

    def __init__(self, path: Path, parent: Version | None, entries: Mapping[str, FileEntry]):
        self.path = path
        self.kept: dict[str, FileEntry] = {}
        self._parent = parent
        self._entries = entries

    def keep(self, name: str) -> None:
        """Take a file over from the version that this one is made from, as it is."""
        assert self._parent is not None, "the first version has nothing to keep"
        self.kept[name] = self._entries[name]
        link(self._parent.path / name, self.path / name)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as stream:
            os.fsync(stream.fileno())


def current_version(folder: Path) -> Path:
    """The folder of the version that readers open.

    Raises:
        IndexFilesError: `folder` holds no index.
    """
    pointer = folder / "CURRENT"
    if not pointer.is_file():
        raise IndexFilesError(f"{folder}: no index here (no file CURRENT)")
    name = pointer.read_bytes()[:100].decode("utf-8", "replace").strip()
    version = folder / "versions" / name
    if not re.fullmatch(r"[0-9]+", name) or not version.is_dir():
        raise IndexFilesError(f"{folder}: CURRENT names the version {name!r}, which is not there")
    return version


def read_manifest(folder: Path, version: Path | None = None) -> Manifest:
    """Read the manifest of the current version and check that its files have their sizes.

    Args:
        folder: the index.
        version: one of its versions, in place of the current one.

    Raises:
        IndexFilesError: there is no index, its manifest was changed, a file is missing or has
            another size, or the format is of another release.
    """
    version = version or current_version(folder)
    path = version / MANIFEST
    try:
        fields = read_json(path)
        format_version = fields["format_version"]
        if format_version == FORMAT_VERSION and fields.pop("sha256") != manifest_checksum(fields):
            raise IndexFilesError("changed since it was written")
        model = fields["model"]
        manifest = Manifest(
            kind=fields["kind"],
            count=fields["count"],
            parameters=fields["parameters"],
            model=ModelReference(**model) if model else None,
            files={name: FileEntry(**entry) for name, entry in fields["files"].items()},
        )
    except (RetrievalError, AttributeError, KeyError, TypeError) as error:
        raise IndexFilesError(f"{path}: damaged ({error}): rebuild the index") from error
    if format_version > FORMAT_VERSION:
        raise IndexFilesError(
            f"{folder}: format {format_version} is newer than this release reads "
            f"({FORMAT_VERSION}): upgrade modernbert-retrieval"
        )
    if format_version < FORMAT_VERSION:
        raise IndexFilesError(
            f"{folder}: format {format_version} is of an older release: index the corpus or its "
            f"embeddings again with `retrieval index ... --output {folder} --overwrite`"
        )
    for name, entry in manifest.files.items():
        file = version / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise IndexFilesError(f"{file}: {found}, expected {entry.bytes}: rebuild the index")
    return manifest


def version_checksum(version: Path) -> str:
    """The SHA-256 of a version's manifest, which covers the SHA-256 of each of its files."""
    checksum: str = read_json(version / MANIFEST)["sha256"]
    return checksum


def check_bytes(version: Path, name: str | None = None) -> None:
    """Compare the SHA-256 of one file of a version, or of all, with the manifest.

    Raises:
        IndexFilesError: a file differs from what was written.
    """
    files = read_json(version / MANIFEST)["files"]
    for each in [name] if name else files:
        if sha256(version / each) != files[each]["sha256"]:
            raise IndexFilesError(
                f"{version / each}: changed since it was written (SHA-256 differs): "
                "rebuild the index"
            )


def commit(
    lock: WriterLock,
    manifest: Manifest,
    write: Callable[[Draft], None],
    *,
    replaces: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a new version and make it the current one; older versions are removed.

    Readers that have an older version open keep its files: they are mapped. Where writing fails,
    as on a full disk, the old version stays the current one and nothing is left of the new one.

    Args:
        lock: of the index.
        manifest: what to record; sizes and checksums are added here.
        write: fills a draft with files that are new, and those that are kept.
        replaces: the version that the new one is made from; None where it is the first.
        overwrite: replace whatever is current, without a look at `replaces`.

    Returns:
        The folder of the new version.

    Raises:
        IndexFilesError: the current version is not `replaces`, so that somebody's changes would
            be lost. The lock rules it out, but where the file system does not keep locks.
    """
    assert lock.is_held, "only the holder of the lock may write"
    folder = lock.folder
    versions = folder / "versions"
    versions.mkdir(exist_ok=True)
    if not overwrite:
        _check_current(folder, replaces)
    entries = read_manifest(folder, replaces).files if replaces else {}
    taken = [int(path.name) for path in versions.iterdir() if path.name.isdigit()]
    version = versions / f"{max(taken, default=0) + 1:06d}"
    draft = Draft(
        versions / f".{version.name}.draft",
        Version(replaces, entries) if replaces else None,
        entries,
    )
    shutil.rmtree(draft.path, ignore_errors=True)
    draft.path.mkdir()
    try:
        write(draft)
        _write_manifest(draft, manifest)
        draft.path.rename(version)
        sync_folder(versions)
        with atomic_write(folder / "CURRENT") as stream:
            stream.write(f"{version.name}\n".encode())
    except BaseException:
        shutil.rmtree(draft.path, ignore_errors=True)
        if not _is_current(folder, version):
            shutil.rmtree(version, ignore_errors=True)
        raise
    logger.debug("%s: version %s", folder, version.name)
    remove_others(folder)
    return version


def remove_others(folder: Path) -> None:
    """Remove all but the current version, and what killed writers left; for the lock's holder."""
    versions = folder / "versions"
    for path in versions.iterdir() if versions.is_dir() else ():
        if not _is_current(folder, path):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".CURRENT.*.tmp"):
        path.unlink(missing_ok=True)


def _is_current(folder: Path, version: Path) -> bool:
    pointer = folder / "CURRENT"
    return pointer.is_file() and pointer.read_bytes().strip() == version.name.encode()


def _check_current(folder: Path, expected: Path | None) -> None:
    current = current_version(folder) if (folder / "CURRENT").exists() else None
    if current != expected:
        raise IndexFilesError(
            f"{folder}: another writer has saved since this index was opened or built: open it "
            "again and repeat the change"
        )


def _write_manifest(draft: Draft, manifest: Manifest) -> None:
    """Describe the files of a draft, once every byte of them is on disk."""
    files = {name: entry._asdict() for name, entry in draft.kept.items()}
    for path in sorted(draft.path.iterdir()):
        if path.name in files:
            continue
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    fields = {
        "format_version": FORMAT_VERSION,
        "kind": manifest.kind,
        "count": manifest.count,
        "parameters": manifest.parameters,
        "model": manifest.model._asdict() if manifest.model else None,
        "files": files,
    }
    write_json(draft.path / MANIFEST, fields | {"sha256": manifest_checksum(fields)})


def manifest_checksum(fields: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest, whatever the order and the spaces it is written with."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def index_bytes(folder: Path) -> int:
    """The bytes that the current version takes on disk, stored documents not counted."""
    version = current_version(folder)
    return sum(
        path.stat().st_size for path in version.iterdir() if not path.name.startswith("documents.")
    )
