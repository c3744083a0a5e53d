"""Files from the web: continued where they were cut, checked, and whole or absent."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from retrieval.errors import DownloadError, RetrievalError
from retrieval.files import read_json, sync_folder, write_json
from retrieval.progress import Meter

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20


def is_offline() -> bool:
    """Whether the user keeps everything off the network, by the hub's own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def download(
    url: str, path: Path, *, checksum: str | None = None, advice: str = "", progress: bool = False
) -> str:
    """Fetch a file that becomes `path` in one step, once it is whole and its checksum is right.

    What has arrived is kept beside it in `path`.part: after a cut or a kill the next call goes on
    from there, if the server still has the same file. A connection that ends early is taken up
    again as long as each brings something.

    Args:
        url: an HTTP or HTTPS address.
        path: the file; nothing is fetched where it is there.
        checksum: "md5:..." or "sha256:...", in hexadecimal.
        advice: what to do without a network, for the message.
        progress: show a bar in MiB on stderr.

    Returns:
        The checksum of the file: of the kind that was given, else SHA-256.

    Raises:
        DownloadError: no network, no such address, no room on the disk, a connection that brings
            nothing more, or another checksum. In the last case nothing is kept.
    """
    if path.exists():
        return _checked(path, url, checksum)
    if is_offline():
        raise DownloadError(f"{url}: not fetched, as HF_HUB_OFFLINE is set: {advice}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _fetch(url, part, progress)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}: {advice}") from (
            error
        )
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url}: can't be reached ({reason}): {advice}") from error
    found = _checked(part, url, checksum)
    os.replace(part, path)
    sync_folder(path.parent)
    _state_path(part).unlink(missing_ok=True)
    return found


def file_checksum(path: Path, kind: str = "sha256") -> str:
    """A file's checksum, such as "sha256:" and 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Compare what will be written with what is free.

    Raises:
        DownloadError: it does not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DownloadError(
            f"{what} takes {needed_bytes:,} bytes, and {folder} has {free:,} free: make room, or "
            "name another folder for the data"
        )


def _checked(path: Path, url: str, expected: str | None) -> str:
    found = file_checksum(path, expected.partition(":")[0] if expected else "sha256")
    if expected not in (None, found):
        path.unlink()
        _state_path(path).unlink(missing_ok=True)
        raise DownloadError(
            f"{url}: the checksum is {found}, expected {expected}: the file was damaged on its "
            "way, or has changed at its source; it was removed, so run again, and change the "
            "suite only if the new file is to be trusted"
        )
    return found


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Fill `part` to its end, over as many connections as that takes."""
    name = url.rpartition("/")[2]
    with Meter(f"downloading {name} (MiB)", enabled=progress) as meter:
        while True:
            before = _size(part)
            total = _fetch_more(url, part, meter)
            size = _size(part)
            if total is None or size == total:
                return
            if size <= before:
                raise DownloadError(
                    f"{url}: the connection ended after {size:,} of {total:,} bytes: run again, "
                    "it goes on there where the server can"
                )
            logger.warning("%s: cut after %s of %s bytes, going on", url, size, total)


def _fetch_more(url: str, part: Path, meter: Meter) -> int | None:
    """Add what one connection brings; returns how long the file is, None if nobody says."""
    start, state = _state_of(url, part)
    if start and start == state["bytes"]:  # killed between the last byte and the new name
        return start
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        # The rest of the same file, or a new one from its beginning.
        request.add_header("If-Range", state["validator"])
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        total = _total_bytes(response, start)
        _write_state(url, part, response, total)
        check_room(part.parent, (total or 0) - start, url)
        meter.total = None if total is None else -(-total // _CHUNK_BYTES)
        if not meter.completed:
            meter.skip(start // _CHUNK_BYTES)
        with open(part, "r+b" if start else "wb", buffering=0) as stream:
            stream.seek(start)
            try:
                while chunk := response.read(_CHUNK_BYTES):
                    stream.write(chunk)
                    meter.advance()
            except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
                if total is None:
                    raise DownloadError(f"{url}: cut off ({error}): run again") from error
            os.fsync(stream.fileno())
    return total


def _total_bytes(response: Any, start: int) -> int | None:
    if not start:
        length = response.headers.get("Content-Length")
        return int(length) if length else None
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
    if match is None or int(match[1]) != start:
        raise DownloadError(
            f"{response.url}: asked for the bytes from {start:,}, the server sent "
            f"{content_range!r}: name another mirror as the data set's url"
        )
    return int(match[2])


def _state_of(url: str, part: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes are there, and what they are of; 0 where that can't be told for sure."""
    try:
        state = read_json(_state_path(part))
    except RetrievalError:
        return 0, {}
    size = _size(part)
    if state["url"] != url or not state["validator"] or size > (state["bytes"] or 0):
        return 0, {}
    return size, state


def _write_state(url: str, part: Path, response: Any, total: int | None) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag promises the same meaning, not the same bytes.
    strong = None if tag.startswith("W/") else tag
    validator = strong or response.headers.get("Last-Modified")
    write_json(_state_path(part), {"url": url, "validator": validator, "bytes": total})


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
