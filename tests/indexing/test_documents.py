from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.indexing.documents import StoredDocuments
from retrieval.records import Document
from tests.indexing.drafts import inodes, save

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
    reopened = StoredDocuments.open(save(tmp_path, stored.write))
    assert [reopened[position] for position in range(len(reopened))] == DOCUMENTS


def test_added_documents_follow_the_saved_ones(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS)
    again = StoredDocuments.open(save(tmp_path, stored.write))
    for number in range(3):
        again.extend([Document(f"new {number}", "more")])
    for each in (again, StoredDocuments.open(save(tmp_path, again.write))):
        assert len(each) == 7
        assert each[3] == DOCUMENTS[3]
        assert each[4] == Document("new 0", "more")
        assert each[6] == Document("new 2", "more")


def test_none_at_all_leave_no_file(tmp_path: Path) -> None:
    version = save(tmp_path, StoredDocuments().write)
    assert list(version.files) == []
    assert len(StoredDocuments.open(version)) == 0


def test_the_text_of_unchanged_documents_is_not_written_again(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS)
    version = save(tmp_path, stored.write)
    before = inodes(version)
    again = StoredDocuments.open(version)
    again.extend([Document("new", "more")])
    after = inodes(save(tmp_path, again.write))
    assert list(before) == ["documents.000001.safetensors"]
    assert after.items() > before.items()
    assert list(after) == ["documents.000001.safetensors", "documents.000002.safetensors"]


def test_compaction_leaves_the_documents_that_are_left_in_their_order(tmp_path: Path) -> None:
    stored = StoredDocuments()
    stored.extend(DOCUMENTS)
    saved = StoredDocuments.open(save(tmp_path, stored.write))
    live = np.array([True, False, True, True])
    version = save(tmp_path, lambda draft: saved.write_compacted(draft, live))
    left = StoredDocuments.open(version)
    assert [left[position] for position in range(len(left))] == [
        DOCUMENTS[0],
        DOCUMENTS[2],
        DOCUMENTS[3],
    ]
