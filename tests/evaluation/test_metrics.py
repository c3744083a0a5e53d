"""Values worked out by hand from the definitions; trec_eval's rules are at the top of metrics.py.

The gain of a relevant document is its relevance, its discount log2(rank + 1).
"""

from __future__ import annotations

import logging
import sys
from math import log2
from pathlib import Path
from zlib import crc32

import pytest

from retrieval.errors import ConfigError, InputError, MissingExtraError
from retrieval.evaluation import evaluate_run, read_collection
from retrieval.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metrics, trec_ranking
from retrieval.records import Hit

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")


def ranking(*ids: str) -> list[Hit]:
    """Hits with falling scores."""
    return [Hit(each, float(len(ids) - place)) for place, each in enumerate(ids)]


def test_all_metrics_of_a_graded_ranking_match_their_definitions() -> None:
    # Relevant: a (1), b (2), c (3); c is never found, x and y are not relevant.
    qrels = {"q": {"a": 1, "b": 2, "c": 3, "x": 0, "y": -1}}
    run = {"q": ranking("x", "b", "y", "a", "unjudged")}
    names = ["nDCG@3", "nDCG@10", "MAP@2", "MAP@100", "recall@2", "recall@100", "MRR@10", "P@5"]
    mean = evaluate_run(qrels, run, names).mean
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert mean["nDCG@3"] == pytest.approx((2 / log2(3)) / ideal, abs=1e-9)
    assert mean["nDCG@10"] == pytest.approx((2 / log2(3) + 1 / log2(5)) / ideal, abs=1e-9)
    assert mean["MAP@2"] == pytest.approx((1 / 2) / 3)
    assert mean["MAP@100"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert mean["recall@2"] == pytest.approx(1 / 3)
    assert mean["recall@100"] == pytest.approx(2 / 3)
    assert mean["MRR@10"] == pytest.approx(1 / 2)
    assert mean["P@5"] == pytest.approx(2 / 5)


def test_the_ideal_ranking_is_cut_at_k_as_well() -> None:
    qrels = {"q": {"a": 1, "b": 1, "c": 1}}
    assert evaluate_run(qrels, {"q": ranking("a")}, ["nDCG@1"]).mean == {"nDCG@1": 1.0}


def test_precision_divides_by_k_even_where_fewer_hits_are_found() -> None:
    assert evaluate_run({"q": {"a": 1}}, {"q": ranking("a")}, ["P@10"]).mean == {"P@10": 0.1}


def test_negative_judgements_count_as_not_relevant() -> None:
    negative = {"q": {"a": -2, "b": 1, "c": -1}}
    zero = {"q": {"a": 0, "b": 1, "c": 0}}
    run = {"q": ranking("a", "c", "b")}
    scores = evaluate_run(negative, run)
    assert scores == evaluate_run(zero, run)
    assert scores.mean["MRR@10"] == pytest.approx(1 / 3)
    assert scores.mean["nDCG@10"] == pytest.approx(1 / log2(4), abs=1e-9)


def test_queries_whose_judgements_are_all_negative_score_zero() -> None:
    # pytrec_eval itself crashes here: a query judged below -1 throughout, after a relevant one.
    qrels = {"q1": {"a": 1}, **{f"n{number}": {"a": -2, "b": -3} for number in range(50)}}
    run = {query: ranking("a", "b") for query in qrels}
    scores = evaluate_run(qrels, run, [*DEFAULT_METRICS, "recall_cap@2", "judged@2"])
    assert scores.per_query["q1"]["nDCG@10"] == 1.0
    assert scores.per_query["n7"] == {
        **dict.fromkeys(DEFAULT_METRICS, 0.0),
        "recall_cap@2": 0.0,
        "judged@2": 1.0,
    }


def test_equal_scores_are_ranked_by_id_the_greater_first() -> None:
    tied = [Hit("a", 1.0), Hit("c", 1.0), Hit("b", 1.0)]
    # The order is c, b, a, whatever the order of the hits.
    for place, relevant in enumerate("cba", start=1):
        for hits in (tied, tied[::-1]):
            mean = evaluate_run({"q": {relevant: 1}}, {"q": hits}, ["MRR@3", "nDCG@3"]).mean
            assert mean["MRR@3"] == pytest.approx(1 / place)
            assert mean["nDCG@3"] == pytest.approx(1 / log2(place + 1), abs=1e-9)


def test_ties_are_broken_before_the_cut_of_mrr() -> None:
    # By the scores alone any two of the three could be the first two; by trec_eval's rule c and b.
    tied = [Hit("a", 1.0), Hit("b", 1.0), Hit("c", 1.0)]
    for relevant, expected in (("a", 0.0), ("b", 0.5), ("c", 1.0)):
        names = ["MRR@2", "recall@2"]
        mean = evaluate_run({"q": {relevant: 1}}, {"q": tied}, names).mean
        assert mean == {"MRR@2": expected, "recall@2": float(expected > 0)}


def test_scores_that_differ_beyond_single_precision_are_equal() -> None:
    hits = [Hit("a", 1.0 + 1e-12), Hit("b", 1.0)]
    assert evaluate_run({"q": {"a": 1}}, {"q": hits}, ["MRR@10"]).mean == {"MRR@10": 0.5}


@pytest.mark.parametrize("cutoff", range(1, 60))
def test_mrr_looks_at_exactly_the_first_k_hits(cutoff: int) -> None:
    ids = [f"d{number}" for number in range(80)]
    name = f"MRR@{cutoff}"
    inside = evaluate_run({"q": {ids[cutoff - 1]: 1}}, {"q": ranking(*ids)}, [name]).mean[name]
    outside = evaluate_run({"q": {ids[cutoff]: 1}}, {"q": ranking(*ids)}, [name]).mean[name]
    assert (inside, outside) == (1 / cutoff, 0.0)


def test_success_is_whether_any_relevant_document_is_among_the_first_k() -> None:
    qrels = {"q1": {"a": 2, "b": 0}, "q2": {"a": 1}, "q3": {"a": -1}}
    run = {each: ranking("b", "a", "c") for each in qrels}
    scores = evaluate_run(qrels, run, ["success@1", "success@2"])
    assert scores.per_query == {
        "q1": {"success@1": 0.0, "success@2": 1.0},
        "q2": {"success@1": 0.0, "success@2": 1.0},
        "q3": {"success@1": 0.0, "success@2": 0.0},
    }


def test_capped_recall_divides_by_what_k_hits_can_hold() -> None:
    qrels = {"q": {"a": 1, "b": 3, "c": 1, "x": 0, "y": -1}}
    run = {"q": ranking("a", "x", "b", "y", "unjudged")}
    names = ["recall_cap@1", "recall_cap@2", "recall_cap@3", "recall_cap@10"]
    assert evaluate_run(qrels, run, names).mean == pytest.approx(
        {
            "recall_cap@1": 1 / 1,
            "recall_cap@2": 1 / 2,
            "recall_cap@3": 2 / 3,
            "recall_cap@10": 2 / 3,
        }
    )
    assert evaluate_run({"q": {"a": 0}}, run, ["recall_cap@3"]).mean == {"recall_cap@3": 0.0}


def test_zero_and_negative_judgements_are_judged_and_the_others_are_holes() -> None:
    # "other" is judged, but for another query.
    qrels = {"q": {"a": 1, "x": 0, "y": -1}, "q2": {"other": 1}, "q3": {"a": 1}}
    run = {"q": ranking("u1", "x", "y", "u2", "other", "a"), "q2": ranking("other", "u1")}
    scores = evaluate_run(qrels, run, ["judged@1", "judged@5", "hole@5", "judged@100", "hole@100"])
    assert scores.per_query["q"] == {
        "judged@1": 0.0,
        "judged@5": 2 / 5,
        "hole@5": pytest.approx(3 / 5),
        "judged@100": 3 / 6,
        "hole@100": 3 / 6,
    }
    assert scores.per_query["q2"]["judged@5"] == scores.per_query["q2"]["hole@5"] == 1 / 2
    assert set(scores.per_query["q3"].values()) == {0.0}  # no hits


def test_ties_are_broken_before_the_cut_of_every_measure() -> None:
    tied = [Hit("a", 1.0 + 1e-12), Hit("b", 1.0), Hit("c", 1.0)]
    names = ["success@2", "recall_cap@2", "judged@2", "hole@2"]
    for judged, is_first in (("a", False), ("b", True), ("c", True)):
        mean = evaluate_run({"q": {judged: 1}}, {"q": tied}, names).mean
        assert mean == {
            "success@2": float(is_first),
            "recall_cap@2": float(is_first),
            "judged@2": is_first / 2,
            "hole@2": 1 - is_first / 2,
        }


def test_the_ranking_is_by_single_precision_then_by_the_bytes_of_the_ids() -> None:
    hits = [
        Hit("a", 1.0 + 1e-12),
        Hit("\uffee", 1.0),  # before the next in UTF-16, after it in UTF-8
        Hit("\U00010000", 1.0),
        Hit("low", -1e300),
        Hit("high", 1e300),
        Hit("highest", float("inf")),
    ]
    order = [each.document_id for each in trec_ranking(hits)]
    assert order == ["highest", "high", "\U00010000", "\uffee", "a", "low"]
    for place, relevant in enumerate(order, start=1):
        mean = evaluate_run({"q": {relevant: 1}}, {"q": hits}, ["MRR@10"]).mean
        assert mean["MRR@10"] == pytest.approx(1 / place)


def test_a_judged_query_without_hits_counts_as_zero() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"a": 0}}
    scores = evaluate_run(qrels, {"q1": ranking("a"), "q2": []}, ["nDCG@10", "MRR@10"])
    assert scores.mean == {"nDCG@10": 0.25, "MRR@10": 0.25}
    assert scores.per_query == {
        "q1": {"nDCG@10": 1.0, "MRR@10": 1.0},
        "q2": {"nDCG@10": 0.0, "MRR@10": 0.0},
        "q3": {"nDCG@10": 0.0, "MRR@10": 0.0},
        "q4": {"nDCG@10": 0.0, "MRR@10": 0.0},
    }


def test_queries_without_judgements_are_ignored() -> None:
    run = {"q1": ranking("a"), "q2": ranking("a")}
    scores = evaluate_run({"q1": {"a": 1}, "q2": {}}, run, ["P@1"])
    assert scores.per_query == {"q1": {"P@1": 1.0}}
    assert scores.mean == {"P@1": 1.0}


def test_a_run_of_other_queries_is_all_zero_and_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        scores = evaluate_run({"q1": {"a": 1}}, {"other": ranking("a")}, ["P@1"])
    assert scores.mean == {"P@1": 0.0}
    assert "no hits for any of the 1 judged queries" in caplog.text


def test_infinite_scores_are_ranked() -> None:
    hits = [Hit("a", float("inf")), Hit("b", 0.0), Hit("c", float("-inf"))]
    for place, relevant in enumerate("abc", start=1):
        mean = evaluate_run({"q": {relevant: 1}}, {"q": hits}, ["MRR@3"]).mean
        assert mean["MRR@3"] == pytest.approx(1 / place)


def test_the_same_document_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="query 'q': the run has the same document twice"):
        evaluate_run({"q": {"a": 1}}, {"q": [Hit("a", 2.0), Hit("a", 1.0)]})


def test_no_judgements_at_all_are_an_error() -> None:
    with pytest.raises(InputError, match="no judgements"):
        evaluate_run({}, {"q": ranking("a")})


def test_names_are_read_in_any_case_and_written_in_one() -> None:
    names = ["NDCG@10", "map@5", "Recall@20", "mrr@3", "p@1", "ndcg@10"]
    assert parse_metrics(names) == [
        Metric("nDCG", 10),
        Metric("MAP", 5),
        Metric("recall", 20),
        Metric("MRR", 3),
        Metric("P", 1),
    ]
    assert list(evaluate_run({"q": {"a": 1}}, {}, names).mean) == [
        "nDCG@10",
        "MAP@5",
        "recall@20",
        "MRR@3",
        "P@1",
    ]


def test_all_unknown_names_are_in_one_error() -> None:
    names = ["nDCG@10", "F1@10", "nDCG", "MAP@0", "recall@-1", "P@x", ""]
    with pytest.raises(ConfigError) as caught:
        parse_metrics(names)
    message = str(caught.value)
    assert "'F1@10', 'nDCG', 'MAP@0', 'recall@-1', 'P@x', ''" in message
    assert (
        "expected nDCG@k, MAP@k, recall@k, MRR@k, P@k, success@k, recall_cap@k, judged@k, hole@k "
        "with a whole number k >= 1"
    ) in message
    with pytest.raises(ConfigError, match="none"):
        parse_metrics([])


def test_a_missing_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(MissingExtraError, match=r'pip install "modernbert-retrieval\[eval\]"'):
        evaluate_run({"q": {"a": 1}}, {"q": ranking("a")})


@pytest.mark.parametrize("levels", [7, 1 << 23], ids=["ties", "no-ties"])
def test_a_real_collection_is_scored_as_beir_scores_it(shared_data: Path, levels: int) -> None:
    evaluation = pytest.importorskip("beir.retrieval.evaluation")
    qrels = read_collection(shared_data / "nfcorpus-lc").qrels
    documents = sorted({document for judged in qrels.values() for document in judged})
    run = {
        query_id: [
            Hit(each, float(crc32(f"{query_id} {each}".encode()) % levels))
            for each in sorted({*judged, *documents[::30]})
        ]
        for query_id, judged in qrels.items()
    }
    as_beir = {query: {hit.document_id: hit.score for hit in hits} for query, hits in run.items()}
    figures = evaluation.EvaluateRetrieval.evaluate(qrels, as_beir, [10, 100])
    theirs = {name.lower(): value for group in figures for name, value in group.items()}
    ours = evaluate_run(qrels, run, [*DEFAULT_METRICS, "recall@10"]).mean
    # BEIR rounds to five decimals.
    for name in ("nDCG@10", "MAP@100", "recall@10", "recall@100", "P@10"):
        assert ours[name] == pytest.approx(theirs[name.lower()], abs=6e-6)
    if levels > 1000:  # BEIR's own MRR does not follow trec_eval's rule for ties
        mrr = evaluation.EvaluateRetrieval.evaluate_custom(qrels, as_beir, [10], "mrr")
        assert ours["MRR@10"] == pytest.approx(mrr["MRR@10"], abs=6e-6)
