from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from retrieval.errors import DuplicateIdError, InputError
from retrieval.files import BadLines
from retrieval.qrels import read_qrels

EXPECTED = {"q1": {"d1": 2, "d 2": -1}, "q2": {"d1": 0}}
BEIR = "q1\td1\t2\nq1\td 2\t-1\nq2\td1\t0\n"


@pytest.mark.parametrize(
    "content",
    [
        BEIR,
        "query-id\tcorpus-id\tscore\n" + BEIR,
        "\ufeffquery-id\tcorpus-id\tscore\n" + BEIR,
        ("query-id\tcorpus-id\tscore\n" + BEIR).replace("\n", "\r\n"),
        "\n" + BEIR.replace("\n", "\n\n"),
        BEIR.rstrip("\n"),
        "q1\t0\td1\t2\nq1\t0\td 2\t-1\nq2\t0\td1\t0\n",
        "topic\titer\tdocument\trelevance\nq1\t0\td1\t2\nq1\tQ0\td 2\t-1\nq2\t0\td1\t0\n",
    ],
    ids=["plain", "header", "bom", "crlf", "blank-lines", "no-end", "trec", "trec-header"],
)
def test_every_layout_reads_the_same(tmp_path: Path, content: str) -> None:
    path = tmp_path / "test.tsv"
    path.write_bytes(content.encode())
    assert read_qrels(path) == EXPECTED
    packed = tmp_path / "test.tsv.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert read_qrels(packed) == EXPECTED


def test_columns_may_be_separated_by_spaces(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("q1 0 d1  2\nq2 0 d2 1\n")
    assert read_qrels(path) == {"q1": {"d1": 2}, "q2": {"d2": 1}}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q2\td1", "expected 3 columns (BEIR) or 4 (TREC), found 2"),
        ("q2\t0\td1\t1\textra", "found 5"),
        ("q2\t0\td1\t1", "expected 3 columns as in the lines before, found 4"),
        ("q2\td1\thigh", "expected a whole number as relevance, found 'high'"),
        ("q2\td1\t0.5", "found '0.5'"),
        ("q2\t\t1", "the id of the query or the document is empty"),
        ("\td1\t1", "the id of the query or the document is empty"),
    ],
)
def test_a_bad_line_is_an_error_with_its_place_or_is_skipped(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq1\td1\t1\n{line}\nq3\td3\t1\n")
    with pytest.raises(InputError) as caught:
        read_qrels(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert problem in str(caught.value)
    bad_lines = BadLines(skip=True)
    assert read_qrels(path, bad_lines) == {"q1": {"d1": 1}, "q3": {"d3": 1}}
    assert bad_lines.count == 1


def test_contradicting_judgements_are_an_error_that_names_both(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("q1\td1\t1\nq1\td2\t1\nq1\td1\t0\n")
    with pytest.raises(DuplicateIdError, match=r":3: query 'q1' and document 'd1'.*: 1 and 0"):
        read_qrels(path)


def test_a_repeated_judgement_is_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("q1\td1\t1\nq1\td1\t1\nq1\td2\t1\nq1\td1\t1\n")
    with caplog.at_level(logging.WARNING):
        assert read_qrels(path) == {"q1": {"d1": 1, "d2": 1}}
    assert "2 judgements come more than once" in caplog.text


@pytest.mark.parametrize("content", ["", "\n", "query-id\tcorpus-id\tscore\n"])
def test_a_file_without_judgements_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match="no judgements"):
        read_qrels(path)


def test_unreadable_files_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_qrels(tmp_path / "absent.tsv")
    latin = tmp_path / "latin.tsv"
    latin.write_bytes("q1\tcafé\t1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.tsv:1: not UTF-8"):
        read_qrels(latin)
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress(BEIR.encode() * 100)[:-20])
    with pytest.raises(InputError, match="damaged gzip"):
        read_qrels(cut)
