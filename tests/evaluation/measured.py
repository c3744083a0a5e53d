"""Small collections, and results on them whose rankings are chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.evaluation import (
    Collection,
    EvaluationSettings,
    Result,
    Run,
    Timings,
    evaluate_run,
    read_collection,
    write_run,
)
from retrieval.evaluation.result import Counts
from retrieval.records import Hit

METRICS = ("MRR@10", "recall@5")


def write_collection(folder: Path, queries: int = 12) -> Collection:
    """As many documents as queries: d0 is relevant for q0, not judged for q1, and so on.

    Each query also has a document that is judged not relevant, the next one.
    """
    (folder / "qrels").mkdir(parents=True)
    numbers = range(queries)
    documents = [
        {"_id": f"d{each}", "title": f"Title {each}", "text": f"text | of {each}"}
        for each in numbers
    ]
    texts = [{"_id": f"q{each}", "text": f"question {each}"} for each in numbers]
    for name, records in (("corpus", documents), ("queries", texts)):
        lines = "".join(json.dumps(each) + "\n" for each in records)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    judged = "".join(f"q{i}\td{i}\t1\nq{i}\td{(i + 1) % queries}\t0\n" for i in numbers)
    (folder / "qrels" / "test.tsv").write_text(judged, "utf-8")
    return read_collection(folder)


def ranked(collection: Collection, ranks: Sequence[int]) -> Run:
    """A run that has the relevant document of q0 at the first of these ranks, and so on.

    The others follow in the order of their numbers.
    """
    run = {}
    for query, rank in enumerate(ranks):
        others = [f"d{each}" for each in range(len(collection.queries)) if each != query]
        others.insert(rank - 1, f"d{query}")
        run[f"q{query}"] = [Hit(each, 1.0 - at / 100) for at, each in enumerate(others)]
    return run


def write_result(
    folder: Path,
    collection: Collection,
    ranks: Sequence[int],
    system: str,
    *,
    settings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Result:
    """Write result.json and run.trec as `retrieval eval --output` does.

    `ranks` are as in `ranked`, `settings` those of the evaluation that are not the default, and
    `changes` fields of the result.
    """
    run = ranked(collection, ranks)
    scores = evaluate_run(collection.qrels, run, METRICS)
    result = Result(
        system=system,
        collection=collection.name,
        split=collection.split,
        collection_fingerprint=collection.fingerprint,
        metrics=scores.mean,
        counts=Counts(
            documents=len(collection.queries),
            queries=len(collection.queries),
            judgements=2 * len(collection.queries),
            missing_documents=0,
            missing_queries=0,
        ),
        timings=Timings(queries=len(collection.queries), encode_seconds=0.5, search_seconds=0.5),
        settings=EvaluationSettings(metrics=METRICS, **(settings or {})),
        index_kind="exact",
        index_parameters={},
        index_bytes=None,
        model=None,
        created="2026-11-23T12:00:00+00:00",
        python="CPython 3.12.3",
        cpu_count=2,
        versions={},
        per_query=scores.per_query,
    )
    result = replace(result, **changes)
    result.to_json(folder / "result.json")
    write_run(folder / "run.trec", run, "-".join(system.split()))
    return result
