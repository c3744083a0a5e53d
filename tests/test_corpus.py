"""Corpora as streams: JSON lines, BEIR folders, folders of text and code."""

from __future__ import annotations

import gzip
import json
import logging
import operator
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.corpus import (
    MAX_FILE_BYTES,
    MAX_PASSAGE_CHARACTERS,
    read_corpus,
    read_queries,
    split_passages,
)
from retrieval.errors import DuplicateIdError, InputError
from retrieval.files import BadLines
from retrieval.records import Document, Query
from retrieval.seen_ids import SeenIds

ROWS = [
    {"_id": "a", "title": "Title", "text": "Text é"},
    {"_id": "b", "text": "no title"},
    {"_id": "c", "title": None, "text": "null title", "metadata": {"url": "x"}},
    {"id": 7, "text": "numbered"},
]
DOCUMENTS = [
    Document("a", "Text é", "Title"),
    Document("b", "no title"),
    Document("c", "null title"),
    Document("7", "numbered"),
]


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_file_and_its_beir_folder_give_the_same_documents(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "beir" / name, *ROWS)
    write(tmp_path / "beir" / "queries.jsonl", {"_id": "q", "text": "not a document"})
    assert list(read_corpus(path)) == DOCUMENTS
    assert list(read_corpus(str(path.parent))) == DOCUMENTS


def test_queries_have_no_titles(tmp_path: Path) -> None:
    path = write(tmp_path / "queries.jsonl", {"_id": 1, "text": "why?", "title": "ignored"})
    assert list(read_queries(path)) == [Query("1", "why?")]


def test_documents_come_before_a_later_line_is_read(tmp_path: Path) -> None:
    stream = read_corpus(write(tmp_path / "rows.jsonl", ROWS[0], "not an object"))
    assert next(stream) == DOCUMENTS[0]
    with pytest.raises(InputError, match=r"rows\.jsonl:2: expected an object, got str"):
        next(stream)


def test_a_missing_path_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        read_corpus(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "x"}, r"expected a string under '_id' \(or 'id'\), found the keys \['text'\]"),
        ({"_id": "", "text": "x"}, "expected a string under '_id'"),
        ({"_id": True, "text": "x"}, "expected a string under '_id'"),
        ({"_id": None, "id": "x", "text": "x"}, "expected a string under '_id'"),
        ({"_id": "x", "contents": "x"}, "expected a string under 'text'.*'contents'"),
        ({"_id": "x", "text": ["x"]}, "expected a string under 'text'"),
        ({"_id": "x", "text": "x", "title": 5}, "expected a string under 'title'"),
        ({"_id": "x", "text": "half a pair: \ud83d"}, "not Unicode"),
    ],
)
def test_a_line_that_is_no_document_says_why(tmp_path: Path, row: Any, problem: str) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS[0], row, ROWS[1])
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: {problem}"):
        list(read_corpus(path))
    bad_lines = BadLines(skip=True)
    assert list(read_corpus(path, bad_lines)) == DOCUMENTS[:2]
    assert bad_lines.count == 1


def test_an_id_that_comes_twice_is_named_even_where_bad_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS[0], ROWS[3], {"_id": "7", "text": "again"})
    with pytest.raises(DuplicateIdError, match=r"rows\.jsonl:3: the id '7' is there twice"):
        list(read_corpus(path, BadLines(skip=True)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_the_length_hint_counts_the_lines_of_a_file_and_reads_nothing_ahead(
    tmp_path: Path, name: str
) -> None:
    stream = read_corpus(write(tmp_path / name, *ROWS))
    assert operator.length_hint(stream) == 4
    assert list(stream) == DOCUMENTS
    (tmp_path / "files").mkdir()
    assert operator.length_hint(read_corpus(tmp_path / "files")) == 0, "unknown"


def test_a_damaged_file_is_counted_up_to_the_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl.gz", *ROWS * 1000)
    path.write_bytes(path.read_bytes()[:-40])
    stream = read_corpus(path)
    assert operator.length_hint(stream) <= 4_000
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz"):
        for _ in stream:
            pass


def test_ids_are_told_apart_to_the_last_character() -> None:
    ids = ["a", "A", "a ", " a", "a\0", "a\0b", "ä", "a\u0308", "1", "01", "1.0", "x" * 5_000]
    with SeenIds() as seen:
        assert all(seen.add(each) for each in ids)
        assert not any(seen.add(each) for each in ids)


def test_ids_of_a_large_corpus_take_no_memory(tmp_path: Path) -> None:
    """100,000 of them would be 13 MB as a set of strings; SQLite's cache holds 2 MB."""
    before = resident_bytes()
    with SeenIds() as seen:
        for number in range(100_000):
            seen.add(f"a long identifier with the number {number * 7919 % 100_000}")
        assert resident_bytes() - before < 5_000_000
        assert not seen.add("a long identifier with the number 77")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_empty_documents_are_kept_and_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = [{"_id": "e", "text": ""}, {"_id": "f", "text": " \n", "title": ""}]
    titled = {"_id": "t", "text": "", "title": "only a title"}
    path = write(tmp_path / "rows.jsonl", empty[0], ROWS[0], empty[1], titled)
    assert [each.id for each in read_corpus(path)] == ["e", "a", "f", "t"]
    assert caplog.messages == [f"{path}: empty documents: 2 (kept, and encoded all the same)"]


def test_a_folder_of_files_becomes_passages_with_their_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "notes.md": "\ufeffOne.\r\n\r\nTwo é.\r\n",
        "src/code.py": "def f():\n    return 1\n",
        "src/blank.txt": "\n \n",
        ".git/config": "hidden",
        "src/.hidden.py": "hidden",
        "node_modules/x/index.js": "somebody else's",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "huge.txt").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    with caplog.at_level(logging.WARNING):
        documents = list(read_corpus(tmp_path))
    assert documents == [
        Document("notes.md:1-3", "One.\n\nTwo é.", "notes.md"),
        Document("src/code.py:1-2", "def f():\n    return 1", "src/code.py"),
    ]
    message = f"{tmp_path}: passed over 3 files that are binary or over 4 MiB"
    assert caplog.messages == [message]


def test_a_long_file_is_cut_at_blank_lines() -> None:
    paragraph = "x" * 700
    text = "\n\n".join([paragraph] * 5)
    assert [(first, last) for first, last, _ in split_passages(text)] == [(1, 3), (5, 7), (9, 9)]


def test_a_paragraph_that_is_too_long_stays_whole() -> None:
    long = "\n".join(["x" * 99] * 40)
    passages = list(split_passages(f"before\n\n{long}\n\nafter"))
    assert passages == [(1, 1, "before"), (3, 42, long), (44, 44, "after")]


def test_lines_are_counted_as_editors_count_them() -> None:
    text = "a\x0cb\u2028c\n\n" + "x" * MAX_PASSAGE_CHARACTERS + "\n\nlast\x1d"
    assert [(first, last) for first, last, _ in split_passages(text)] == [(1, 1), (3, 3), (5, 5)]


@given(st.lists(st.sampled_from(["", " ", "a", "b" * 400, "c" * 900]), max_size=25))
@settings(max_examples=100, deadline=None)
def test_passages_hold_every_line_once_and_in_place(lines: list[str]) -> None:
    covered: list[int] = []
    for first, last, passage in split_passages("\n".join(lines)):
        assert passage == "\n".join(lines[first - 1 : last])
        assert lines[first - 1].strip()
        assert lines[last - 1].strip()
        covered += range(first, last + 1)
        is_one_paragraph = all(line.strip() for line in passage.split("\n"))
        assert len(passage) <= MAX_PASSAGE_CHARACTERS or is_one_paragraph
    assert covered == sorted(set(covered))
    left_out = set(range(1, len(lines) + 1)) - set(covered)
    assert not any(lines[number - 1].strip() for number in left_out)
