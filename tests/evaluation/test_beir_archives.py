from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from retrieval.errors import DownloadError
from retrieval.evaluation.beir_archives import unpack

FILES = {
    "tiny/corpus.jsonl": b'{"_id": "d1", "text": "fox"}\n' * 50_000,
    "tiny/qrels/test.tsv": b"q1\td1\t1\n",
    "__MACOSX/tiny/._corpus.jsonl": b"left out",
}


def archive(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    path = folder / "tiny.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.mkdir("tiny")
        for name, content in files.items():
            opened.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    found = (each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in found}


def test_the_files_below_the_top_folder_are_unpacked(tmp_path: Path, target: Path) -> None:
    unpack(archive(tmp_path), "tiny", target)
    assert contents(target) == {
        "corpus.jsonl": FILES["tiny/corpus.jsonl"],
        "qrels/test.tsv": FILES["tiny/qrels/test.tsv"],
    }


@pytest.mark.parametrize("name", ["../evil", "tiny/../../evil", "/tmp/evil", "tiny\\..\\..\\evil"])
def test_a_path_that_leaves_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, target: Path, name: str
) -> None:
    with pytest.raises(DownloadError, match="leads out of the folder"):
        unpack(archive(tmp_path, {**FILES, name: b"evil"}), "tiny", target)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["deep", "target", "tiny.zip"]


def test_a_link_is_refused(tmp_path: Path, target: Path) -> None:
    path = archive(tmp_path)
    link = zipfile.ZipInfo("tiny/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="'tiny/link' is a link or a device"):
        unpack(path, "tiny", target)


def test_a_member_never_gives_more_than_the_archive_states(tmp_path: Path, target: Path) -> None:
    path = archive(tmp_path, {"tiny/corpus.jsonl": b"a" * 1_000_000})
    # The size in the central directory, the last record: 46 bytes of header before the name.
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"tiny/corpus.jsonl") - 46 + 24
    assert int.from_bytes(raw[at : at + 4], "little") == 1_000_000
    raw[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DownloadError, match="damaged, or no zip"):
        unpack(path, "tiny", target)
    assert (target / "corpus.jsonl").stat().st_size <= 1000


def test_members_that_overlap_are_refused(tmp_path: Path, target: Path) -> None:
    path = archive(tmp_path, {"tiny/a": bytes(range(256)) * 40})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"tiny/a") - 46 + 20
    raw[at : at + 4] = (10_000_000).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DownloadError, match="its members overlap"):
        unpack(path, "tiny", target)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip"])
def test_a_damaged_archive_is_removed(tmp_path: Path, target: Path, damage: str) -> None:
    path = archive(tmp_path)
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[raw.index(b"tiny/corpus.jsonl") + 60] ^= 0xFF
    damaged = {"cut": bytes(raw[:-30]), "flipped": bytes(raw), "no zip": b"<html>"}
    path.write_bytes(damaged[damage])
    with pytest.raises(DownloadError, match=r"damaged, or no zip .* removed; run again"):
        unpack(path, "tiny", target)
    assert not path.exists()


def test_an_archive_of_something_else_says_what_it_holds(tmp_path: Path, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"nothing in a folder 'scifact'; there are: .*tiny"):
        unpack(archive(tmp_path), "scifact", target)
