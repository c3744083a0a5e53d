from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import IndexFilesError
from retrieval.files import save_arrays
from retrieval.indexing.locking import WriterLock
from retrieval.indexing.versions import (
    Draft,
    Manifest,
    check_bytes,
    commit,
    current_version,
    index_bytes,
    read_manifest,
)
from retrieval.records import ModelReference
from tests.indexing.damage import change_manifest

MODEL = ModelReference("models/tiny", "f" * 64, True, 128)
MANIFEST = Manifest(kind="exact", count=3, parameters={"dtype": "float32"}, model=MODEL)


def write_text(text: str) -> Callable[[Draft], None]:
    def write(draft: Draft) -> None:
        (draft.path / "data.txt").write_text(text)

    return write


def save(
    folder: Path,
    write: Callable[[Draft], None],
    *,
    manifest: Manifest = MANIFEST,
    overwrite: bool = False,
) -> Path:
    """Commit as a writer does that has opened the current version."""
    with WriterLock(folder) as lock:
        is_first = overwrite or not (folder / "CURRENT").exists()
        replaces = None if is_first else current_version(folder)
        return commit(lock, manifest, write, replaces=replaces, overwrite=overwrite)


def text_of(index: Path) -> str:
    return (current_version(index) / "data.txt").read_text()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    save(tmp_path / "index", write_text("one"))
    return tmp_path / "index"


def test_a_committed_manifest_is_read_back(index: Path) -> None:
    found = read_manifest(index)
    assert found == replace(MANIFEST, files=found.files)
    assert found.files == {"data.txt": (3, hashlib.sha256(b"one").hexdigest())}
    without = Manifest(kind="lexical", count=0, parameters={}, model=None)
    save(index, write_text("two"), manifest=without)
    assert read_manifest(index) == replace(without, files=read_manifest(index).files)


def test_a_commit_replaces_the_version_it_was_made_from(index: Path) -> None:
    first = current_version(index)
    second = save(index, write_text("two"))
    assert second == current_version(index) != first
    assert text_of(index) == "two"
    assert [path.name for path in (index / "versions").iterdir()] == [second.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_version(index: Path, error: type[BaseException]) -> None:
    pointer = (index / "CURRENT").read_bytes()

    def fail(draft: Draft) -> None:
        (draft.path / "data.txt").write_text("half")
        raise error("the disk is full")

    with pytest.raises(error, match="the disk is full"):
        save(index, fail)
    assert (index / "CURRENT").read_bytes() == pointer
    assert text_of(index) == "one"
    check_bytes(current_version(index))
    assert len(list((index / "versions").iterdir())) == 1
    save(index, write_text("two"))
    assert text_of(index) == "two"


@pytest.mark.parametrize("step", ["rename", "pointer"])
def test_a_crash_after_writing_leaves_a_whole_version(
    index: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", fail)
        else:
            patch.setattr("retrieval.indexing.versions.atomic_write", fail)
        with pytest.raises(OSError, match="the power is gone"):
            save(index, write_text("two"))
    assert text_of(index) == "one"
    save(index, write_text("three"))
    assert text_of(index) == "three"
    assert len(list((index / "versions").iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
from retrieval.indexing.locking import WriterLock
from retrieval.indexing.versions import Manifest, commit
lock = WriterLock(Path(sys.argv[1]))
manifest = Manifest(kind="exact", count=1, parameters={}, model=None)
number = 0
while True:
    number += 1
    def write(draft):
        for name in ("a.bin", "b.bin"):
            (draft.path / name).write_bytes(bytes([number % 256]) * 300_000)
    commit(lock, manifest, write, overwrite=True)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_its_last_acknowledged_version(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for attempt in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.01 + 0.013 * attempt)
        process.send_signal(signal.SIGKILL)
        acknowledged = int((first + process.communicate()[0]).split()[-1])
        read_manifest(folder)
        version = current_version(folder)
        check_bytes(version)
        # Both files are of the last commit that was acknowledged, or of one that came to an end
        # before it could be.
        assert (version / "a.bin").read_bytes() == (version / "b.bin").read_bytes()
        stored = (version / "a.bin").read_bytes()[0]
        assert stored in (acknowledged % 256, (acknowledged + 1) % 256)
    save(folder, write_text("after"), overwrite=True)
    assert text_of(folder) == "after"
    assert len(list((folder / "versions").iterdir())) == 1


def test_a_version_made_from_an_older_one_is_refused(index: Path) -> None:
    # The lock rules it out, but where a file system does not keep locks.
    opened = current_version(index)
    save(index, write_text("theirs"))
    with WriterLock(index) as lock:
        with pytest.raises(IndexFilesError, match="another writer has saved"):
            commit(lock, MANIFEST, write_text("ours"), replaces=opened)
        with pytest.raises(IndexFilesError, match="another writer has saved"):
            commit(lock, MANIFEST, write_text("ours"))
        assert text_of(index) == "theirs"
        commit(lock, MANIFEST, write_text("ours"), overwrite=True)
    assert text_of(index) == "ours"


def test_a_kept_file_is_the_same_file_and_is_not_read(index: Path) -> None:
    first = current_version(index)
    inode = (first / "data.txt").stat().st_ino
    # A byte that changes on disk shows that the checksum is taken over, not computed again.
    (first / "data.txt").write_text("on!")

    def write(draft: Draft) -> None:
        draft.keep("data.txt")
        (draft.path / "more.txt").write_text("more")

    second = save(index, write)
    assert (second / "data.txt").stat().st_ino == inode
    assert read_manifest(index).files["data.txt"].sha256 == hashlib.sha256(b"one").hexdigest()
    check_bytes(second, "more.txt")
    with pytest.raises(IndexFilesError, match=r"data\.txt: changed"):
        check_bytes(second)


def test_without_hard_links_a_kept_file_is_copied(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    version = save(index, lambda draft: draft.keep("data.txt"))
    assert (version / "data.txt").read_text() == "one"
    check_bytes(version)


@pytest.mark.parametrize("step", ["file", "manifest", "pointer"])
def test_a_full_disk_leaves_the_old_version_and_no_draft(
    index: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(draft: Draft) -> None:
        save_arrays(draft.path / "new.safetensors", {"x": np.arange(3)})

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if {"file": "new.safe", "manifest": "manifest", "pointer": "CURRENT"}[step] in name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(index, write)
    assert text_of(index) == "one"
    check_bytes(current_version(index))
    assert [path.name for path in (index / "versions").iterdir()] == ["000001"]
    assert sorted(path.name for path in index.iterdir()) == ["CURRENT", "LOCK", "versions"]
    save(index, write_text("two"))
    assert text_of(index) == "two"


def test_a_damaged_index_can_be_overwritten(index: Path) -> None:
    (index / "CURRENT").write_text("000009\n")
    with pytest.raises(IndexFilesError, match="'000009', which is not there"):
        current_version(index)
    save(index, write_text("new"), overwrite=True)
    assert text_of(index) == "new"


def test_one_changed_bit_is_found(index: Path) -> None:
    version = current_version(index)
    check_bytes(version)
    (version / "data.txt").write_text("onf")
    read_manifest(index)
    with pytest.raises(IndexFilesError, match=r"data\.txt: changed since it was written"):
        check_bytes(version)
    with pytest.raises(IndexFilesError, match="SHA-256"):
        check_bytes(version, "data.txt")


def test_no_index_says_so(tmp_path: Path) -> None:
    with pytest.raises(IndexFilesError, match="no index here"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("pointer", ["", "../../etc", "latest"])
def test_a_pointer_that_names_no_version_is_refused(index: Path, pointer: str) -> None:
    (index / "CURRENT").write_text(pointer)
    with pytest.raises(IndexFilesError, match="not there"):
        read_manifest(index)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1, "files": {}}', "{"])
def test_a_damaged_manifest_is_refused(index: Path, content: str) -> None:
    (current_version(index) / "manifest.json").write_text(content)
    with pytest.raises(IndexFilesError, match=r"manifest\.json: damaged"):
        read_manifest(index)


def test_a_newer_format_asks_for_an_upgrade(index: Path) -> None:
    change_manifest(index, format_version=3)
    with pytest.raises(IndexFilesError, match=r"format 3 is newer .*upgrade"):
        read_manifest(index)


def test_an_older_format_says_how_to_index_again(index: Path) -> None:
    change_manifest(index, format_version=1)
    with pytest.raises(IndexFilesError, match=r"format 1 is of an older .*retrieval index"):
        read_manifest(index)


def test_every_changed_byte_of_a_manifest_is_noticed(index: Path) -> None:
    path = current_version(index) / "manifest.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        changed = bytes([whole[at] ^ 4])
        path.write_bytes(whole[:at] + changed + whole[at + 1 :])
        if whole[at : at + 1].isspace() and changed.isspace():
            continue
        with pytest.raises(IndexFilesError):
            read_manifest(index)


def test_stored_documents_are_no_part_of_the_size(index: Path) -> None:
    before = index_bytes(index)
    (current_version(index) / "documents.jsonl").write_text("x" * 1000)
    assert index_bytes(index) == before > 3
