"""Leaks of an evaluation set into training data: found, told apart, refused and taken out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import ConfigError, InputError, LeakError
from retrieval.training.leak_matching import LeakSettings
from retrieval.training.leaks import find_leaks, refuse_leaks, write_without
from tests.programs import run_program

ABSTRACT = (
    "Vitamin D supplements lower the risk of fractures in elderly women who live in nursing homes, "
    "as a randomised trial of three years with more than two thousand participants has shown."
)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Query q1 asks for d1, q2 for d2; t1 is a training query, and d3 answers nothing."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    queries = {
        "q1": "does vitamin D prevent fractures in elderly women",
        "q2": "How is the weather station in Oslo powered?",
        "t1": "a query of the training split",
    }
    corpus = {"d1": ABSTRACT, "d2": "Oslo's station runs on solar cells.", "d3": "Unjudged."}
    write_lines(folder / "queries.jsonl", [{"_id": k, "text": v} for k, v in queries.items()])
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": key, "text": text, "title": "A title"} for key, text in corpus.items()],
    )
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels/test.tsv").write_text(f"{header}q1\td1\t1\nq2\td2\t1\nq2\td3\t0\n", "utf-8")
    (folder / "qrels/train.tsv").write_text(f"{header}t1\td3\t1\n", "utf-8")
    return folder


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return path


def matches(tmp_path: Path, evaluation: Path, **row: Any) -> list[tuple[str, bool, str]]:
    """Kind, exactness and id of what one training row matches."""
    path = write_lines(tmp_path / "train.jsonl", [row])
    report = find_leaks([path], [evaluation])
    return [(m.kind, m.is_exact, m.id) for found in report.examples.values() for m in found]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Does vitamin-D prevent FRACTURES in elderly women?", [("query", True, "q1")]),
        ("does vitamin \uff24 prevent fractures in elderly women", [("query", True, "q1")]),
        ("does vitamin D prevent fractures in all elderly women", [("query", False, "q1")]),
        ("women: does elderly vitamin D prevent in fractures", [("query", False, "q1")]),
        ("does vitamin D cause fractures in young women", []),
        ("a query of the training split", []),
    ],
)
def test_a_query_is_found_whatever_its_case_punctuation_and_small_changes(
    tmp_path: Path, evaluation: Path, query: str, expected: list[Any]
) -> None:
    assert matches(tmp_path, evaluation, anchor=query, positive="Something else.") == expected


def test_a_query_is_found_in_every_column(tmp_path: Path, evaluation: Path) -> None:
    query = "how is the weather station in oslo powered"
    for row in (
        {"query": "x", "positive": query},
        {"query": "x", "positive": "p", "negative_2": query},
        {"query": "x", "documents": ["p", query], "scores": [1, 2]},
    ):
        assert matches(tmp_path, evaluation, **row) == [("query", True, "q2")]


@pytest.mark.parametrize(
    ("query", "positive", "expected"),
    [
        # 5 words of 9 in common with q1: no query leak alone, but with its document.
        ("vitamin D fractures women", ABSTRACT, ("pair", True, "q1")),
        ("vitamin D fractures women", f"A title {ABSTRACT}", ("pair", True, "q1")),
        ("vitamin D fractures women", ABSTRACT[:130], ("pair", False, "q1")),
        ("what a trial is", f"{ABSTRACT} More was said.", ("document", False, "d1")),
        ("what a trial is", ABSTRACT.upper(), ("document", True, "d1")),
    ],
)
def test_a_document_is_a_leak_with_a_query_like_its_own(
    tmp_path: Path, evaluation: Path, query: str, positive: str, expected: tuple[str, bool, str]
) -> None:
    assert matches(tmp_path, evaluation, query=query, positive=positive) == [expected]


def test_documents_that_answer_no_judged_query_are_free(tmp_path: Path, evaluation: Path) -> None:
    assert matches(tmp_path, evaluation, query="x y", positive="Unjudged.") == []


def test_short_texts_that_a_document_happens_to_hold_are_free(
    tmp_path: Path, evaluation: Path
) -> None:
    positive = "lower the risk of fractures in elderly women"
    assert matches(tmp_path, evaluation, query="x y", positive=positive) == []


def test_containment_counts_from_its_threshold_on(tmp_path: Path, evaluation: Path) -> None:
    # 22 words give 18 shingles; of 18 + n foreign ones, 80 % are in the document up to n = 4.
    start = " ".join(ABSTRACT.split()[:22])
    foreign = "one two three four five six"
    for added, is_found in ((4, True), (5, False)):
        positive = " ".join([start, *foreign.split()[:added]])
        found = matches(tmp_path, evaluation, query="x y", positive=positive)
        assert found == ([("document", False, "d1")] if is_found else [])


def test_a_row_counts_once_and_only_leaks_are_taken_out(tmp_path: Path, evaluation: Path) -> None:
    query = "does vitamin D prevent fractures in elderly women"
    rows = [
        {"query": query, "positive": ABSTRACT},
        {"query": "other words", "positive": ABSTRACT, "tag": "é"},
        {"query": "clean", "positive": "clean"},
        {"query": "vitamin D fractures women", "positive": ABSTRACT},
    ]
    path = write_lines(tmp_path / "train.jsonl", rows)
    report = find_leaks([path], [evaluation])
    keys = {(kind, is_exact): count for (*_, kind, is_exact), count in report.counts.items()}
    assert keys == {("query", True): 1, ("document", True): 1, ("pair", True): 1}
    assert report.leaks == 2
    assert report.leaking_rows[str(path)] == {1, 4}
    output = tmp_path / "clean.jsonl.gz"
    assert write_without(path, report.leaking_rows[str(path)], output) == (2, 2)
    with gzip.open(output, "rt", encoding="utf-8") as stream:
        assert [json.loads(line) for line in stream] == rows[1:3]
    assert find_leaks([output], [evaluation]).leaks == 0
    strict = LeakSettings(documents_leak=True)
    assert find_leaks([output], [evaluation], strict).leaks == 1


def test_training_on_leaks_is_refused_unless_allowed(tmp_path: Path, evaluation: Path) -> None:
    rows = [{"query": "fine", "positive": "fine"}, {"query": "q", "positive": "q"}]
    rows[1]["query"] = "How is the weather station in Oslo powered?"
    path = write_lines(tmp_path / "train.jsonl", rows)
    with pytest.raises(LeakError, match=r"1 of 2 .*train\.jsonl:2: 'How is .* is the query 'q2'"):
        refuse_leaks([path], [evaluation], allow=False)
    allowed = refuse_leaks([path], [evaluation], allow=True)
    assert allowed is not None
    assert allowed.leaks == 1
    assert refuse_leaks([path], [], allow=False) is None


def test_what_can_not_be_compared_is_an_error(tmp_path: Path, evaluation: Path) -> None:
    with pytest.raises(ConfigError, match="query_jaccard is 0"):
        LeakSettings(query_jaccard=0)
    with pytest.raises(InputError, match="no judgements"):
        find_leaks([], [tmp_path])
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        find_leaks([tmp_path / "absent.jsonl"], [evaluation])


def test_the_report_is_plain_json(tmp_path: Path, evaluation: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", [{"query": "x y", "positive": ABSTRACT}])
    report = json.loads(json.dumps(find_leaks([path], [evaluation]).to_json()))
    assert report["rows"] == {str(path): 1}
    assert report["leaking_rows"] == {}
    (match,) = report["matches"]
    assert match["examples"] == [{"row": 1, "id": "d1", "text": ABSTRACT}]


def test_the_program_prints_counts_and_writes_clean_files(tmp_path: Path, evaluation: Path) -> None:
    query = "how is the weather station in oslo powered"
    rows = [{"query": "fine", "positive": "fine"}, {"query": query, "positive": "p"}]
    path = write_lines(tmp_path / "train.jsonl", rows)
    command: list[str | Path] = ["train/leaks.py", path, "--against", evaluation]
    found = run_program(*command)
    assert found.returncode == 1, found.stderr
    assert found.stdout.splitlines()[0] == f"{path}\t{evaluation}\tquery\tsame\t1"
    assert found.stdout.splitlines()[-1] == "1 of 2 rows leak"
    clean = tmp_path / "clean"
    command += ["--clean-to", clean, "--report", tmp_path / "leaks.json"]
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    assert (clean / "train.jsonl").read_text() == json.dumps(rows[0]) + "\n"
    assert json.loads((tmp_path / "leaks.json").read_text())["leaking_rows"] == {str(path): 1}
    again = run_program(*command)
    assert again.returncode == 2
    assert "is there already" in again.stderr
