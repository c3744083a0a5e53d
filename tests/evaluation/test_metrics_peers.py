"""A thousand random runs, scored by us, by pytrec_eval itself, by ir_measures and by definition."""

from __future__ import annotations

import random

import pytest

from retrieval.evaluation import Run, evaluate_run
from retrieval.evaluation.metrics import trec_ranking
from retrieval.qrels import Qrels
from retrieval.records import Hit

pytrec_eval = pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")
ir_measures = pytest.importorskip("ir_measures", reason="needs the extra [dev]")

WORLDS = 1000
CUTOFFS = (1, 3, 10, 100)
TOLERANCE = 1e-6

Values = dict[tuple[str, str], float]
"""By query and metric."""


def random_world(seed: int) -> tuple[Qrels, Run]:
    """Judgements from -2 to 3 and runs with few distinct scores, of partly the same queries."""
    choose = random.Random(seed)
    documents = [f"d{number}" for number in range(choose.choice([3, 15, 150]))]
    queries = [f"q{number}" for number in range(6)]
    qrels = {
        query: {
            each: choose.randint(-2, 3) for each in choose.sample(documents, choose.randint(1, 3))
        }
        for query in queries[:5]  # the last one has no judgements
    }
    levels = choose.choice([1, 4, 1 << 20])
    run = {
        query: [
            Hit(each, choose.randrange(levels) / 8)
            for each in choose.sample(documents, choose.randint(1, len(documents)))
        ]
        for query in queries
        if choose.random() > 0.2
    }
    return qrels, run


def ours(qrels: Qrels, run: Run, *measures: str) -> Values:
    names = [f"{measure}@{k}" for measure in measures for k in CUTOFFS]
    return {
        (query, name): value
        for query, values in evaluate_run(qrels, run, names).per_query.items()
        for name, value in values.items()
    }


def for_peers(qrels: Qrels) -> Qrels:
    """The judgements, but none of queries that trec_eval crashes on: all of them below -1."""
    return {
        query: judgements if max(judgements.values()) >= -1 else dict.fromkeys(judgements, -1)
        for query, judgements in qrels.items()
    }


def as_scores(run: Run) -> dict[str, dict[str, float]]:
    return {query: dict(hits) for query, hits in run.items()}


@pytest.mark.parametrize("world", [range(start, start + 100) for start in range(0, WORLDS, 100)])
def test_pytrec_eval_agrees(world: range) -> None:
    theirs = {"nDCG": "ndcg_cut", "MAP": "map_cut", "recall": "recall", "P": "P"}
    theirs["success"] = "success"
    wanted = {f"{name}.{k}" for name in theirs.values() for k in CUTOFFS}
    for seed in world:
        qrels, run = random_world(seed)
        found = pytrec_eval.RelevanceEvaluator(for_peers(qrels), wanted).evaluate(as_scores(run))
        for (query, metric), value in ours(qrels, run, *theirs).items():
            name, k = metric.split("@")
            # Queries without hits are missing there, and score 0 with us.
            expected = found.get(query, {}).get(f"{theirs[name]}_{k}", 0.0)
            assert value == pytest.approx(expected, abs=TOLERANCE), (seed, query, metric)


@pytest.mark.parametrize("world", [range(start, start + 100) for start in range(0, WORLDS, 100)])
def test_ir_measures_agrees(world: range) -> None:
    names = {"nDCG": "nDCG", "MAP": "AP", "recall": "R", "MRR": "RR", "P": "P"}
    names |= {"success": "Success", "judged": "Judged"}
    wanted = {
        f"{name}@{k}": ir_measures.parse_measure(f"{theirs}@{k}")
        for name, theirs in names.items()
        for k in CUTOFFS
    }
    for seed in world:
        qrels, run = random_world(seed)
        # Its RR@k and Judged@k break ties their own way: here the order is the scores' alone.
        untied = {
            query: {hit.document_id: -float(place) for place, hit in enumerate(trec_ranking(hits))}
            for query, hits in run.items()
        }
        found = {
            (each.query_id, str(each.measure)): each.value
            for each in ir_measures.iter_calc(list(wanted.values()), for_peers(qrels), untied)
        }
        for (query, metric), value in ours(qrels, run, *names).items():
            expected = found.get((query, str(wanted[metric])), 0.0)
            assert value == pytest.approx(expected, abs=TOLERANCE), (seed, query, metric)


def test_the_measures_that_are_not_trec_evals_follow_their_definitions() -> None:
    for seed in range(WORLDS):
        qrels, run = random_world(seed)
        ranked = {
            query: [hit.document_id for hit in trec_ranking(hits)] for query, hits in run.items()
        }
        for (query, metric), value in ours(qrels, run, "recall_cap", "judged", "hole").items():
            name, k = metric.split("@")
            expected = by_definition(name, int(k), qrels[query], ranked.get(query, []))
            assert value == pytest.approx(expected, abs=1e-12), (seed, query, metric)


def by_definition(name: str, k: int, judgements: dict[str, int], ranked: list[str]) -> float:
    first = ranked[:k]
    if name == "recall_cap":
        relevant = {each for each, relevance in judgements.items() if relevance > 0}
        return len(relevant & set(first)) / min(k, len(relevant)) if relevant else 0.0
    judged = len([each for each in first if each in judgements])
    return (judged if name == "judged" else len(first) - judged) / max(1, len(first))
