from __future__ import annotations

from pathlib import Path

from retrieval.indexing.documents import StoredDocuments
from retrieval.records import Document

DOCUMENTS = [
    Document("a", "text", "title"),
    Document("b", "", ""),
    Document("é", "two\nlines \u2028 and \x85", 'a "title"'),
    Document("d", "x" * 10_000, "long"),
]


def test_documents_are_the_same_before_and_after_saving(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS[:2])
    stored.extend([])
    stored.extend(DOCUMENTS[2:])
    assert [stored[position] for position in range(len(stored))] == DOCUMENTS
    stored.save(tmp_path)
    reopened = StoredDocuments.open(tmp_path)
    assert [reopened[position] for position in range(len(reopened))] == DOCUMENTS


def test_added_documents_follow_the_saved_ones(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS)
    stored.save(tmp_path)
    again = StoredDocuments.open(tmp_path)
    for number in range(3):
        again.extend([Document(f"new {number}", "more")])
    folder = tmp_path / "second"
    folder.mkdir()
    again.save(folder)
    for each in (again, StoredDocuments.open(folder)):
        assert len(each) == 7
        assert each[3] == DOCUMENTS[3]
        assert each[4] == Document("new 0", "more")
        assert each[6] == Document("new 2", "more")


def test_none_at_all_leave_no_file(tmp_path: Path) -> None:
    StoredDocuments().save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(StoredDocuments.open(tmp_path)) == 0


def test_saving_twice_writes_the_same(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS)
    stored.save(tmp_path)
    first = (tmp_path / "documents.jsonl").read_bytes()
    stored.save(tmp_path)
    assert (tmp_path / "documents.jsonl").read_bytes() == first
