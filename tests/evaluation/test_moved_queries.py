from __future__ import annotations

import logging
from pathlib import Path

import pytest

from retrieval.errors import InputError
from retrieval.evaluation import Collection, MeasuredSystem, read_collection
from retrieval.evaluation.moved_queries import find_collections, moved_queries
from retrieval.evaluation.result_files import DataSet, read_measured_systems
from tests.evaluation.measured import write_collection, write_result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

ONE = DataSet("one", "test")
BEFORE = [1, 2, 1, 6, 5, 4]
AFTER = [1, 1, 2, 1, 5, 5]  # moved, by MRR: q3 up by 5/6; q1 up, q2 down by 1/2; q5 by 1/20

Pair = tuple[MeasuredSystem, MeasuredSystem]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "one", queries=6)


@pytest.fixture
def systems(tmp_path: Path, collection: Collection) -> Pair:
    write_result(tmp_path / "a", collection, BEFORE, "a")
    write_result(tmp_path / "b", collection, AFTER, "b")
    first, second = read_measured_systems([tmp_path / "a", tmp_path / "b"])
    return first, second


def test_the_greatest_differences_come_first_and_equal_values_not_at_all(
    systems: Pair,
) -> None:
    moved = moved_queries(*systems, [ONE], "MRR@10")
    assert [each.query_id for each in moved] == ["q3", "q1", "q2", "q5"]
    assert [each.difference for each in moved] == pytest.approx([5 / 6, 0.5, -0.5, -0.05])
    assert [each.query_id for each in moved_queries(*systems, [ONE], "MRR@10", count=2)] == [
        "q3",
        "q1",
    ]
    assert moved_queries(*systems, [ONE], "MRR@10", count=0) == []


def test_rankings_name_the_place_with_the_other_system(systems: Pair) -> None:
    query = moved_queries(*systems, [ONE], "MRR@10", depth=3)[1]
    before = [(each.document_id, each.other_rank) for each in query.baseline_ranking]
    after = [(each.document_id, each.other_rank) for each in query.ranking]
    assert before == [("d0", 2), ("d1", 1), ("d2", 3)]
    assert after == [("d1", 2), ("d0", 1), ("d2", 3)]
    assert query.text is None
    assert {each.relevance for each in query.ranking} == {None}


def test_texts_and_judgements_come_from_the_collection(
    systems: Pair, collection: Collection
) -> None:
    query = moved_queries(*systems, [ONE], "MRR@10", collections={ONE: collection}, depth=3)[1]
    assert query.text == "question 1"
    first, second, third = query.ranking
    assert (first.document_id, first.relevance, first.title) == ("d1", 1, "Title 1")
    assert (second.document_id, second.relevance) == ("d0", None)
    assert (third.document_id, third.relevance, third.text) == ("d2", 0, "text | of 2")


def test_queries_of_all_data_sets_compete(tmp_path: Path, systems: Pair) -> None:
    two = write_collection(tmp_path / "two", queries=6)
    for name, ranks in zip(("a", "b"), ([1] * 6, [1, 1, 1, 1, 1, 4])):
        write_result(tmp_path / "both" / name / "two", two, ranks, name)
    others = read_measured_systems([tmp_path / "both" / "a", tmp_path / "both" / "b"])
    for system, other in zip(systems, others):
        system.results.update(other.results)
        system.runs.update(other.runs)
    moved = moved_queries(*systems, [ONE, DataSet("two", "test")], "MRR@10", count=3)
    assert [(str(each.data_set), each.query_id) for each in moved] == [
        ("one", "q3"),
        ("two", "q5"),
        ("one", "q1"),
    ]
    assert moved[1].ranking[3].document_id == "d5"


def test_the_ranking_is_that_of_the_metric_where_scores_are_equal(
    tmp_path: Path, systems: Pair
) -> None:
    lines = "".join(f"q3 Q0 d{each} 1 1.0 a\n" for each in (1, 5, 3))
    systems[0].runs[ONE].write_text(lines, "utf-8")
    query = moved_queries(*systems, [ONE], "MRR@10")[0]
    assert [each.document_id for each in query.baseline_ranking] == ["d5", "d3", "d1"]
    assert [each.other_rank for each in query.ranking][:2] == [2, None]


def test_a_run_that_was_not_kept_is_warned_about(
    systems: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    del systems[1].runs[ONE]
    with caplog.at_level(logging.WARNING):
        query = moved_queries(*systems, [ONE], "MRR@10")[0]
    assert "one: b kept no run, so its rankings are not shown" in caplog.text
    assert query.ranking == ()
    assert len(query.baseline_ranking) == 6
    assert query.value == 1.0


def test_collections_are_found_by_their_content(
    tmp_path: Path, systems: Pair, collection: Collection
) -> None:
    assert find_collections([tmp_path], systems[0], [ONE]) == {ONE: collection}
    renamed = (tmp_path / "one").rename(tmp_path / "another-name")
    found = find_collections([renamed], systems[0], [ONE])
    assert found[ONE].fingerprint == collection.fingerprint
    assert find_collections([], systems[0], [ONE]) == {}


def test_folders_that_are_not_a_compared_data_set_are_errors(tmp_path: Path, systems: Pair) -> None:
    other = write_collection(tmp_path / "other", queries=7)
    with pytest.raises(InputError, match=r"other: none of the compared data sets \(one\)"):
        find_collections([other.path], systems[0], [ONE])
    with pytest.raises(InputError, match="absent: none of the"):
        find_collections([tmp_path / "absent"], systems[0], [ONE])
    (tmp_path / "one" / "qrels" / "test.tsv").write_text("q0\td0\t3\n", "utf-8")
    with pytest.raises(
        InputError, match=r"one: none of the compared data sets \(one\) is here with"
    ):
        find_collections([tmp_path / "one"], systems[0], [ONE])
    assert read_collection(tmp_path / "one").qrels == {"q0": {"d0": 3}}
