"""Folders of data that are whole or absent, each with a file that says what it was made of."""

from __future__ import annotations

import fcntl
import logging
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.errors import DownloadError, RetrievalError
from retrieval.files import read_json, sync_folder, write_json

logger = logging.getLogger(__name__)

_RECORD = "source.json"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` in one step if the block succeeds.

    What a killed process left behind is removed first; hold `exclusive` around this.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for folder in (unfinished, *(each for each in unfinished.rglob("*") if each.is_dir())):
            sync_folder(folder)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(target.parent)


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """One process at a time makes `target`; another one waits, and says so in the log."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s: another process is making it; waiting", target)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_read_only(folder: Path) -> bool:
    """Whether the owner of a folder may not write: its mode, which holds for root too."""
    return not folder.stat().st_mode & stat.S_IWUSR


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Say what a folder of data was made of."""
    write_json(folder / _RECORD, dict(record))


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a folder of data was made of; None where somebody else made it.

    Raises:
        RetrievalError: the record is damaged.
    """
    if not (folder / _RECORD).exists():
        return None
    record = read_json(folder / _RECORD)
    if not isinstance(record, dict):
        raise RetrievalError(f"{folder / _RECORD}: expected an object: remove {folder}, run again")
    return record


def check_record(folder: Path, expected: Mapping[str, Any]) -> None:
    """Compare what a folder was made of with what a suite asks for.

    Raises:
        DownloadError: they differ; the message names both.
    """
    record = read_record(folder) or {}
    for key, value in expected.items():
        if record.get(key, value) != value:
            raise DownloadError(
                f"{folder}: made with {key} {record[key]!r}, and the suite says {value!r}: "
                "remove the folder to have it made anew, or name another folder for the data"
            )
