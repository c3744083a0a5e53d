"""An index on disk: a folder of complete versions and one pointer that names the current one.

    INDEX/CURRENT                      "000002", replaced atomically
    INDEX/versions/000002/manifest.json  kind, parameters, model, size and SHA-256 of every file
    INDEX/versions/000002/...            arrays, ids, stored documents

A crash at any moment leaves CURRENT naming a complete version, the old one or the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


def read_manifest(folder: Path) -> Manifest:
    """Read the current version's manifest and check that its files have their sizes.

    Raises:
        IndexFilesError: there is no index, a file is missing or has another size, or the format
            is of a newer release.
    """
    version = current_version(folder)
    try:
        manifest = read_json(version / "manifest.json")
    except RetrievalError as error:
        raise IndexFilesError(f"{folder}: damaged index: {error}") from error
    if manifest["format_version"] > FORMAT_VERSION:
        raise IndexFilesError(
            f"{folder}: format {manifest['format_version']} is newer than this release reads "
            f"({FORMAT_VERSION}): upgrade modernbert-retrieval"
        )
    for name, entry in manifest["files"].items():
        path = version / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise IndexFilesError(f"{path}: {found}, expected {entry['bytes']}: rebuild the index")
    model = manifest["model"]
    return Manifest(
        kind=manifest["kind"],
        count=manifest["count"],
        parameters=manifest["parameters"],
        model=ModelReference(**model) if model else None,
    )


def check_bytes(folder: Path, name: str | None = None) -> None:
    """Compare the SHA-256 of one file of the current version, or of all, with the manifest.

    Raises:
        IndexFilesError: a file differs from what was written.
    """
    version = current_version(folder)
    files = read_json(version / "manifest.json")["files"]
    for each in [name] if name else files:
        if sha256(version / each) != files[each]["sha256"]:
            raise IndexFilesError(
                f"{version / each}: changed since it was written (SHA-256 differs): "
                "rebuild the index"
            )


def commit(folder: Path, manifest: Manifest, write: Callable[[Path], None]) -> Path:
    """Write a new version and make it the current one; older versions are removed.

    Args:
        folder: the index; created if missing.
        manifest: what to record; sizes and checksums are added here.
        write: fills the empty folder that it is given.

    Returns:
        The folder of the new version.

    Raises:
        IndexFilesError: another writer committed the same version first.
    """
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in versions.iterdir() if path.name.isdigit()]
    name = f"{max(taken, default=0) + 1:06d}"
    draft = versions / f".{name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    write(draft)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(draft.iterdir())
    }
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
    try:
        draft.rename(versions / name)
    except OSError as error:
        raise IndexFilesError(f"{folder}: another writer committed version {name}") from error
    sync_folder(versions)
    with atomic_write(folder / "CURRENT") as stream:
        stream.write(f"{name}\n".encode())
    for path in versions.iterdir():
        if path.name != name:
            shutil.rmtree(path, ignore_errors=True)
    return versions / name


def index_bytes(folder: Path) -> int:
    """The bytes that the current version takes on disk, stored documents not counted."""
    version = current_version(folder)
    return sum(
        path.stat().st_size for path in version.iterdir() if not path.name.startswith("documents.")
    )
