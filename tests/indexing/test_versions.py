from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import IndexFilesError
from retrieval.indexing.versions import (
    Manifest,
    check_bytes,
    commit,
    current_version,
    index_bytes,
    read_manifest,
)
from retrieval.records import ModelReference

MODEL = ModelReference("models/tiny", "f" * 64, True, 128)
MANIFEST = Manifest(kind="exact", count=3, parameters={"dtype": "float32"}, model=MODEL)


def write_text(text: str) -> Any:
    return lambda folder: (folder / "data.txt").write_text(text)


def text_of(index: Path) -> str:
    return (current_version(index) / "data.txt").read_text()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    commit(tmp_path / "index", MANIFEST, write_text("one"))
    return tmp_path / "index"


def test_a_committed_manifest_is_read_back(index: Path) -> None:
    assert read_manifest(index) == MANIFEST
    without = Manifest(kind="lexical", count=0, parameters={}, model=None)
    commit(index, without, write_text("two"), replaces=current_version(index))
    assert read_manifest(index) == without


def test_a_commit_replaces_the_version_it_was_made_from(index: Path) -> None:
    first = current_version(index)
    second = commit(index, MANIFEST, write_text("two"), replaces=first)
    assert second == current_version(index) != first
    assert text_of(index) == "two"
    assert [path.name for path in (index / "versions").iterdir()] == [second.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_version(index: Path, error: type[BaseException]) -> None:
    pointer = (index / "CURRENT").read_bytes()

    def fail(folder: Path) -> None:
        (folder / "data.txt").write_text("half")
        raise error("the disk is full")

    with pytest.raises(error, match="the disk is full"):
        commit(index, MANIFEST, fail, replaces=current_version(index))
    assert (index / "CURRENT").read_bytes() == pointer
    assert text_of(index) == "one"
    check_bytes(current_version(index))
    assert len(list((index / "versions").iterdir())) == 1
    commit(index, MANIFEST, write_text("two"), replaces=current_version(index))
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
            commit(index, MANIFEST, write_text("two"), replaces=current_version(index))
    assert text_of(index) == "one"
    commit(index, MANIFEST, write_text("three"), replaces=current_version(index))
    assert text_of(index) == "three"
    assert len(list((index / "versions").iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
from retrieval.indexing.versions import Manifest, commit, current_version
folder = Path(sys.argv[1])
manifest = Manifest(kind="exact", count=1, parameters={}, model=None)
number = 0
while True:
    number += 1
    def write(draft):
        for name in ("a.bin", "b.bin"):
            (draft / name).write_bytes(bytes([number % 256]) * 300_000)
    commit(folder, manifest, write, overwrite=True)
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
    commit(folder, MANIFEST, write_text("after"), overwrite=True)
    assert text_of(folder) == "after"
    assert len(list((folder / "versions").iterdir())) == 1


def test_a_version_made_from_an_older_one_is_refused(index: Path) -> None:
    opened = current_version(index)
    commit(index, MANIFEST, write_text("theirs"), replaces=opened)
    with pytest.raises(IndexFilesError, match="another writer has saved"):
        commit(index, MANIFEST, write_text("ours"), replaces=opened)
    with pytest.raises(IndexFilesError, match="another writer has saved"):
        commit(index, MANIFEST, write_text("ours"))
    assert text_of(index) == "theirs"
    commit(index, MANIFEST, write_text("ours"), overwrite=True)
    assert text_of(index) == "ours"


def test_only_one_writer_saves_at_a_time(index: Path) -> None:
    descriptor = os.open(index, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(IndexFilesError, match="another writer is saving"):
        commit(index, MANIFEST, write_text("two"), replaces=current_version(index))
    os.close(descriptor)
    commit(index, MANIFEST, write_text("two"), replaces=current_version(index))
    assert text_of(index) == "two"


def test_a_damaged_index_can_be_overwritten(index: Path) -> None:
    (index / "CURRENT").write_text("000009\n")
    with pytest.raises(IndexFilesError, match="'000009', which is not there"):
        current_version(index)
    commit(index, MANIFEST, write_text("new"), overwrite=True)
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
    path = current_version(index) / "manifest.json"
    fields = json.loads(path.read_text()) | {"format_version": 2}
    path.write_text(json.dumps(fields))
    with pytest.raises(IndexFilesError, match=r"format 2 is newer .*upgrade"):
        read_manifest(index)


def test_stored_documents_are_no_part_of_the_size(index: Path) -> None:
    before = index_bytes(index)
    (current_version(index) / "documents.jsonl").write_text("x" * 1000)
    assert index_bytes(index) == before > 3
