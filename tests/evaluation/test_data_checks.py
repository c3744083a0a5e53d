from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.errors import DownloadError, InputError
from retrieval.evaluation import data_checks
from retrieval.evaluation.data_checks import SEEN_FILE, check_data
from retrieval.evaluation.data_checksums import data_checksum
from retrieval.evaluation.data_folders import write_record
from retrieval.evaluation.suites import DataSet

WriteBeir = Callable[..., Path]
TINY = DataSet(name="a", source="folder:tiny")


def test_what_is_there_is_counted_and_its_checksum_kept(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    folder = write_beir()
    checked = check_data(TINY, tmp_path)
    facts = checked.facts
    assert checked.path == folder
    assert (facts.documents, facts.queries, facts.relevant) == (4, 3, 3), "one judgement is 0"
    files = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    assert facts.bytes == sum((folder / name).stat().st_size for name in files)
    assert facts.checksum == data_checksum(folder, "test")
    assert checked.is_first_seen
    again = check_data(TINY, tmp_path)
    assert again == replace(checked, is_first_seen=False)
    assert list(json.loads((tmp_path / SEEN_FILE).read_text())) == ["folder:tiny test"]


def test_data_that_have_not_changed_are_not_read(
    write_beir: WriteBeir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_beir()
    check_data(TINY, tmp_path)
    for name in ("count_lines", "read_qrels"):
        monkeypatch.delattr(data_checks, name)
    monkeypatch.delattr("retrieval.evaluation.data_checksums.sha256")
    assert check_data(TINY, tmp_path).facts.documents == 4


def test_data_that_have_changed_are_an_error_with_both_checksums(
    write_beir: WriteBeir, tmp_path: Path
) -> None:
    folder = write_beir()
    before = check_data(TINY, tmp_path).facts.checksum
    path = folder / "qrels" / "test.tsv"
    path.write_text(path.read_text() + "q1\td2\t1\n")
    os.utime(path, ns=(1, 1))
    after = data_checksum(folder, "test")
    with pytest.raises(DownloadError, match=f"is {after}, and .*{SEEN_FILE} says {before}"):
        check_data(TINY, tmp_path)
    with pytest.raises(DownloadError, match=f"is {after}, and the suite says {before}"):
        check_data(replace(TINY, checksum=before), tmp_path)
    assert not check_data(replace(TINY, checksum=after), tmp_path).is_first_seen
    assert check_data(TINY, tmp_path).facts.relevant == 4, "the suite's word counts from now on"


def test_a_folder_of_the_right_name_is_taken_for_a_source_with_a_warning(
    write_beir: WriteBeir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_beir()
    check_data(TINY, tmp_path)
    assert not caplog.messages
    fetched = replace(TINY, source="beir:tiny")
    check_data(fetched, tmp_path)
    (message,) = caplog.messages
    assert message == (
        f"a: nothing says that the data in {folder} are those of beir:tiny, and they were taken "
        "for folder:tiny test before: they are taken for them"
    )
    check_data(fetched, tmp_path)
    (tmp_path / SEEN_FILE).unlink()
    write_record(folder, {"source": "beir:tiny"})
    check_data(fetched, tmp_path)
    assert caplog.messages == [message], "once, and not where the folder says what it is"


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"documents": 5}, r"has 4 documents, not 5: these are other data"),
        ({"queries": 2, "relevant": 9}, "has 3 queries, not 2; 3 relevant, not 9"),
    ],
)
def test_other_sizes_are_an_error_and_are_not_trusted(
    write_beir: WriteBeir, tmp_path: Path, sizes: dict[str, int], problem: str
) -> None:
    write_beir()
    data_set = replace(TINY, **sizes)  # type: ignore[arg-type]
    with pytest.raises(DownloadError, match=problem):
        check_data(data_set, tmp_path)
    assert not (tmp_path / SEEN_FILE).exists()


def test_missing_data_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="put a BEIR folder there"):
        check_data(TINY, tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "documents", "queries", "relevant"),
    [
        # As eval/suites/beir.toml has them; this copy of NFCorpus has other texts.
        ("scifact", "test", 5183, 300, 339),
        ("nfcorpus-lc", "test", 3633, 323, 12_334),
        ("cosqa", "dev", 6267, 500, 500),
    ],
)
def test_development_collections_have_the_published_sizes(
    shared_data: Path, name: str, split: str, documents: int, queries: int, relevant: int
) -> None:
    data_set = DataSet(
        name=name,
        source=f"folder:{name}",
        split=split,
        documents=documents,
        queries=queries,
        relevant=relevant,
    )
    assert check_data(data_set, shared_data).facts.documents == documents
