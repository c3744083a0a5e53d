from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import InputError
from retrieval.evaluation import data_checksums
from retrieval.evaluation.data_checksums import SIDE_FILE, data_checksum

WriteBeir = Callable[..., Path]


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read for their checksums."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(data_checksums, "sha256", counted)
    return names


def test_the_checksum_is_of_the_three_files(write_beir: WriteBeir) -> None:
    folder = write_beir()
    names = ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    expected = hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()
    assert data_checksum(folder, "test") == f"sha256:{expected}"


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_changed_byte_of_any_file_changes_it(write_beir: WriteBeir, name: str) -> None:
    folder = write_beir()
    before = data_checksum(folder, "test")
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"q1", b"q9").replace(b"fox", b"cat"))
    os.utime(path, ns=(1, 1))
    assert data_checksum(folder, "test") != before


def test_other_splits_do_not_count(write_beir: WriteBeir) -> None:
    folder = write_beir(test="q1\td1\t1\n", dev="q2\td1\t1\n")
    before = data_checksum(folder, "test")
    assert data_checksum(folder, "dev") != before
    (folder / "qrels" / "dev.tsv").unlink()
    assert data_checksum(folder, "test") == before


def test_a_file_is_read_again_only_when_it_changed(
    write_beir: WriteBeir, read_files: list[str]
) -> None:
    folder = write_beir()
    first = data_checksum(folder, "test")
    assert read_files == ["corpus.jsonl", "queries.jsonl", "test.tsv"]
    assert data_checksum(folder, "test") == first
    assert len(read_files) == 3
    os.utime(folder / "queries.jsonl", ns=(1, 1))
    assert data_checksum(folder, "test") == first
    assert read_files[3:] == ["queries.jsonl"]


@pytest.mark.parametrize("content", ["[]", "{", '{"corpus.jsonl": 3}'])
def test_a_broken_side_file_is_made_anew(
    write_beir: WriteBeir, read_files: list[str], content: str
) -> None:
    folder = write_beir()
    first = data_checksum(folder, "test")
    (folder / SIDE_FILE).write_text(content)
    assert data_checksum(folder, "test") == first
    assert len(read_files) == 6
    assert set(json.loads((folder / SIDE_FILE).read_text())) == {
        "corpus.jsonl",
        "queries.jsonl",
        "qrels/test.tsv",
    }


def test_a_read_only_folder_is_left_as_it_is(write_beir: WriteBeir) -> None:
    folder = write_beir()
    folder.chmod(0o555)
    try:
        assert data_checksum(folder, "test").startswith("sha256:")
        assert not (folder / SIDE_FILE).exists()
    finally:
        folder.chmod(0o755)


def test_a_missing_file_is_named(write_beir: WriteBeir) -> None:
    folder = write_beir()
    with pytest.raises(InputError, match=r"no qrels/dev\.tsv"):
        data_checksum(folder, "dev")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"no corpus\.jsonl"):
        data_checksum(folder, "test")
