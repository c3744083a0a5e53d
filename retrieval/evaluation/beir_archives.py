"""BEIR's zips, unpacked without leaving the folder."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from retrieval.errors import DownloadError
from retrieval.evaluation.downloads import check_room

_CHUNK_BYTES = 1 << 20


def unpack(archive: Path, top: str, folder: Path) -> None:
    """Unpack what an archive has below its folder `top`.

    Args:
        archive: a zip.
        top: the first folder in it, such as "scifact".
        folder: where its contents go; empty.

    Raises:
        DownloadError: a damaged archive, which is removed; nothing below `top`; a member whose
            path leaves the folder or which is no plain file; or no room.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive, top)
            check_room(folder, sum(each.file_size for each in members), str(archive))
            for member in members:
                _write(opened, member, folder / PurePosixPath(member.filename).relative_to(top))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink()
        raise DownloadError(
            f"{archive}: damaged, or no zip ({error}): it was removed; run again"
        ) from error


def _members(opened: zipfile.ZipFile, archive: Path, top: str) -> Sequence[zipfile.ZipInfo]:
    """The files below `top`, after a look at all that the archive says of itself."""
    everything = opened.infolist()
    if sum(each.compress_size for each in everything) > archive.stat().st_size:
        raise DownloadError(f"{archive}: its members overlap, which no honest zip's do")
    for each in everything:
        path = PurePosixPath(each.filename)
        is_inside = path.parts and not path.is_absolute() and ".." not in path.parts
        if not is_inside or "\\" in each.filename:
            raise DownloadError(f"{archive}: {each.filename!r} leads out of the folder")
        kind = stat.S_IFMT(each.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DownloadError(f"{archive}: {each.filename!r} is a link or a device, no file")
    found = [
        each
        for each in everything
        if not each.is_dir() and PurePosixPath(each.filename).parts[0] == top
    ]
    if not found:
        tops = sorted({PurePosixPath(each.filename).parts[0] for each in everything})
        raise DownloadError(f"{archive}: nothing in a folder {top!r}; there are: {', '.join(tops)}")
    return found


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, open(path, "xb") as stream:
        # zipfile gives no more than the stated size, and compares the CRC at the end.
        shutil.copyfileobj(source, stream, _CHUNK_BYTES)
        if stream.tell() != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename} ends early")
        stream.flush()
        os.fsync(stream.fileno())
