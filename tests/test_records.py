"""What encoders and BM25 read of a document."""

from __future__ import annotations

from retrieval.records import Document


def test_contents_are_the_title_one_space_and_the_text() -> None:
    assert Document("d", "text", "title").contents == "title text"


def test_a_missing_title_or_text_leaves_no_blank() -> None:
    assert Document("d", "text").contents == "text"
    assert Document("d", "", "title").contents == "title"
    assert Document("d", " \n", " ").contents == ""
