from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import DuplicateIdError, InputError
from retrieval.evaluation import Run, read_run, write_run
from retrieval.records import Hit


def test_a_run_is_written_as_six_columns(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "bm25.run"
    write_run(path, {"q1": [Hit("d2", 1.5), Hit("é", -0.1)], "q2": [Hit("d2", 3.0)]}, "bm25")
    assert path.read_text("utf-8") == (
        "q1 Q0 d2 1 1.5 bm25\nq1 Q0 é 2 -0.1 bm25\nq2 Q0 d2 1 3.0 bm25\n"
    )


ids = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)
scores = st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False)
runs = st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=5), max_size=4)


@settings(max_examples=50, deadline=None)  # every example reaches the disk twice
@given(runs)
def test_a_run_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, dict[str, float]]
) -> None:
    run: Run = {
        query_id: sorted((Hit(*each) for each in hits.items()), key=lambda hit: -hit.score)
        for query_id, hits in found.items()
    }
    path = tmp_path_factory.getbasetemp() / "exact.run"
    write_run(path, run, "any")
    assert read_run(path) == run


def test_scores_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    write_run(path, {"q": [Hit("d", np.float32(0.1))]}, "t")  # type: ignore[arg-type]
    assert read_run(path)["q"][0].score == float(np.float32(0.1))


def test_equal_scores_keep_their_order_and_others_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("q Q0 b 9 1.0 t\nq\tQ0\ta 8 1.0 t\r\n\nq Q0 c 7 2e0 t\n")
    assert read_run(path) == {"q": [Hit("c", 2.0), Hit("b", 1.0), Hit("a", 1.0)]}


@pytest.mark.parametrize(
    ("run", "tag", "named"),
    [
        ({"q 1": [Hit("d", 1.0)]}, "t", "the query id 'q 1'"),
        ({"q": [Hit("a", 2.0), Hit("my file.md:1-3", 1.0)]}, "t", "the document id 'my file.md"),
        ({"q": [Hit("d\u00a01", 1.0)]}, "t", "the document id"),
        ({"q": [Hit("", 1.0)]}, "t", "the document id ''"),
        ({"q": [Hit("d", 1.0)]}, "two words", "the tag 'two words'"),
    ],
)
def test_what_the_format_cannot_express_is_an_error_and_leaves_the_old_file(
    tmp_path: Path, run: Run, tag: str, named: str
) -> None:
    path = tmp_path / "a.run"
    path.write_text("old")
    with pytest.raises(InputError) as caught:
        write_run(path, run, tag)
    assert named in str(caught.value)
    assert "whitespace" in str(caught.value)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.run"]


def test_a_score_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query 'q': the score of 'd' is NaN"):
        write_run(tmp_path / "a.run", {"q": [Hit("d", float("nan"))]}, "t")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q Q0 d 1 1.0", "expected 6 columns (query Q0 document rank score tag), found 5"),
        ("q Q0 d 1 1.0 two words", "found 7"),
        ("q Q0 d 1 high t", "expected a number as score, found 'high'"),
        ("q Q0 d 1 nan t", "expected a number as score, found 'nan'"),
    ],
)
def test_a_bad_line_is_an_error_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "a.run"
    path.write_text(f"q Q0 a 1 2.0 t\n\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert problem in str(caught.value)


def test_a_document_that_comes_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("q Q0 a 1 2.0 t\nr Q0 a 1 2.0 t\nq Q0 a 2 1.0 t\n")
    with pytest.raises(DuplicateIdError, match=r"a.run:3: query 'q' has document 'a' twice"):
        read_run(path)
