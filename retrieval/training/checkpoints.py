"""Checkpoints of a run: folders that are complete, checksummed, or not there."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files import read_json, sha256, sync_folder, write_json

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
"""Below the folder of a run."""
INCOMPLETE = ".incomplete"
"""Below the checkpoints: what is being written or deleted, and nobody reads."""
MANIFEST = "manifest.json"
KEPT = 2
"""Complete checkpoints that a run keeps."""


def commit_checkpoint(written: Path, target: Path) -> None:
    """Make the folder `written` the checkpoint `target` in one step.

    Its files, and a manifest with their sizes and checksums, are on disk before the rename: after
    a crash `target` is either complete or not there. A damaged folder of that name gives way.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    manifest = {}
    for path in files:
        _sync_file(path)
        name = path.relative_to(written).as_posix()
        manifest[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(written / MANIFEST, manifest)
    for folder in [*(path for path in written.rglob("*") if path.is_dir()), written]:
        sync_folder(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        _delete(target)
    os.replace(written, target)
    sync_folder(target.parent)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` whose files are all there and unchanged, if any.

    A damaged one is passed over with a warning.
    """
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = find_damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, problem)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        for name, expected in manifest.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
                return f"{name} changed since it was written"
    except RetrievalError as error:
        return str(error)
    except (AttributeError, KeyError, TypeError):
        return f"{MANIFEST} is no manifest"
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, complete or damaged, in the order of their steps."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many steps were done at a checkpoint.

    >>> step_of(Path("models/code/checkpoints/checkpoint-120"))
    120
    """
    return int(checkpoint.name.rpartition("-")[2])


def delete_old_checkpoints(folder: Path) -> None:
    """Keep the newest ones; what an earlier crash left unfinished goes as well."""
    for checkpoint in list_checkpoints(folder)[:-KEPT]:
        _delete(checkpoint)
    clear_incomplete(folder)


def clear_incomplete(folder: Path) -> None:
    """Remove what a crash left half written or half deleted."""
    shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below `folder` to disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(folder)
    sync_folder(folder.parent)


def _delete(checkpoint: Path) -> None:
    """Rename it first, so that no half of it is ever found under its name."""
    grave = checkpoint.parent / INCOMPLETE / f"deleted-{checkpoint.name}"
    grave.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(grave, ignore_errors=True)
    os.replace(checkpoint, grave)
    shutil.rmtree(grave, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
