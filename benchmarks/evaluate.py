"""What an evaluation costs beside its search: checksums, manifest, metrics, files, report.

    python benchmarks/evaluate.py --data ../shared/data/scifact
    python benchmarks/evaluate.py --data ../shared/data/scifact --index exact --json evaluate.json
    python benchmarks/evaluate.py --quick

The corpus is encoded and indexed once, untimed, and kept in --cache. Then each repeat drops the
encoded queries, the runs and the results, and evaluates again in this process, with the model
loaded: `evaluation` is everything from the question whether there is a result to the written
result.json, `search` is the encoding of the queries and the calls of the index. The metrics have to
be those of the untimed evaluation before a figure is printed. --quick generates a small collection.

The first run encodes the corpus: minutes for SciFact with starter-colbert on a core.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import commit

from retrieval.cli.options import quiet_libraries
from retrieval.config import to_mapping
from retrieval.evaluation import (
    Evaluations,
    EvaluationSettings,
    Models,
    ModelSettings,
    Plan,
    PlannedEvaluation,
    Result,
    StageCache,
)
from retrieval.evaluation.collection import choose_split
from retrieval.evaluation.data_checksums import data_checksums
from retrieval.evaluation.finished import source_states
from retrieval.evaluation.hardware import this_hardware
from retrieval.evaluation.html_report import html_report
from retrieval.evaluation.manifest import DataChoice
from retrieval.evaluation.plan_results import models_of
from retrieval.evaluation.report_content import report_content
from retrieval.evaluation.report_sources import find_sources
from retrieval.evaluation.result import library_versions
from retrieval.evaluation.systems import VectorSystem

SEED = 0
KEPT = ("embeddings", "indexes")
"""Stages that the repeats find done."""


def main() -> None:
    """Prepare, repeat, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a BEIR folder; needed without --quick")
    parser.add_argument("--model", default="starter-colbert")
    parser.add_argument("--index", action="append", choices=["exact", "plaid", "faiss"])
    parser.add_argument("--cache", type=Path, help="keeps the corpus for the next time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="300 generated documents")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args()
    if given.data is None and not given.quick:
        parser.error("name a BEIR folder with --data, or take --quick")
    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        data = given.data or generate(Path(temporary) / "generated")
        work = Path(temporary)
        cache = given.cache or work / "cache"
        rows = [
            measure(given, each, data, cache, work) for each in given.index or ["exact", "plaid"]
        ]
    print_rows(rows)
    if given.json:
        given.json.write_text(json.dumps(record(given, rows), indent=2) + "\n")
    for row in rows:
        print(f"RESULT evaluation_over_search_{row['index']} {row['evaluation_over_search']:.3f}")
    worst = max(row["evaluation_over_search"] for row in rows)
    print(f"RESULT evaluation_over_search {worst:.3f}")
    for name in ("manifest", "metrics", "report"):
        print(f"RESULT {name}_seconds {max(row[f'{name}_seconds'] for row in rows):.4f}")


def generate(folder: Path) -> Path:
    """A BEIR folder of 300 documents and 50 queries, made of random words."""
    source = random.Random(SEED)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 8))) for _ in range(500)]

    def text(length: int) -> str:
        return " ".join(source.choices(words, k=length))

    (folder / "qrels").mkdir(parents=True)
    for stem, count, length in (("corpus", 300, 80), ("queries", 50, 8)):
        lines = (json.dumps({"_id": f"{n}", "text": text(length)}) + "\n" for n in range(count))
        (folder / f"{stem}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "test.tsv").write_text("".join(f"{n}\t{n}\t1\n" for n in range(50)))
    return folder


def measure(
    given: argparse.Namespace, index: Any, data: Path, cache: Path, work: Path
) -> dict[str, Any]:
    """The medians of one kind of index."""
    models = Models()
    model = ModelSettings(name=given.model)
    is_multi_vector = models[model].reference.is_multi_vector
    system = VectorSystem(
        kind="multi-vector" if is_multi_vector else "dense", name=index, model=model, index=index
    )
    split = choose_split(data, None)
    plan = Plan(
        data=DataChoice(name=data.resolve().name, folder=data.name, split=split),
        system=system,
        settings=EvaluationSettings(split=split),
    )
    planned = PlannedEvaluation(plan=plan, data=data, output=work / "prepared" / index)
    expected = Evaluations(StageCache(cache), models, progress=True).result(planned)
    repeats = []
    for number in range(given.repeats):
        for folder in cache.iterdir():
            if folder.is_dir() and folder.name not in KEPT:
                shutil.rmtree(folder)
        again = replace(planned, output=work / "repeats" / index / str(number))
        seconds, result = timed(lambda: Evaluations(StageCache(cache), models).result(again))  # noqa: B023
        if result.metrics != expected.metrics:
            sys.exit(f"{index}: the metrics of a repeat differ, so that its time means nothing")
        repeats.append(figures(again, result, seconds, models))
        print(f"{index} {number + 1}/{given.repeats}: {seconds:.3f} s", file=sys.stderr)
    medians = {name: statistics.median(each[name] for each in repeats) for name in repeats[0]}
    return {
        "index": index,
        "documents": expected.counts.documents,
        "queries": expected.counts.queries,
        "metrics": expected.metrics,
        **medians,
        "spread": [
            min(each["evaluation_over_search"] for each in repeats),
            max(each["evaluation_over_search"] for each in repeats),
        ],
        "repeats": repeats,
    }


def figures(
    planned: PlannedEvaluation, result: Result, seconds: float, models: Models
) -> dict[str, float]:
    """The seconds of a repeat, and those of its parts that can be done again alone."""
    assert result.manifest is not None
    timings = result.timings
    search = timings.encode_seconds + timings.search_seconds
    metrics = next(each.seconds for each in result.manifest.stages if each.name == "metrics")
    return {
        "evaluation_seconds": seconds,
        "encode_queries_seconds": timings.encode_seconds,
        "search_seconds": timings.search_seconds,
        "evaluation_over_search": seconds / search,
        "manifest_seconds": timed(lambda: manifest_parts(planned, result, models))[0],
        "metrics_seconds": metrics,
        "report_seconds": timed(lambda: report(planned.output))[0],
    }


def manifest_parts(planned: PlannedEvaluation, result: Result, models: Models) -> None:
    """Everything that an evaluation does for its manifest alone, once more."""
    source_states(planned.plan, planned.data)
    data_checksums(planned.data, planned.plan.data.split)
    models_of(planned.plan.system, models)
    this_hardware()
    library_versions()
    assert result.manifest is not None
    to_mapping(result.manifest)


def report(folder: Path) -> None:
    """The page of `retrieval report`, with intervals and charts."""
    html_report(report_content(find_sources([folder])))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the work gave."""
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def print_rows(rows: list[dict[str, Any]]) -> None:
    """One line an index, in seconds."""
    print(
        "| index | evaluation | queries encoded | searched | ratio | manifest | metrics | report |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        low, high = row["spread"]
        print(
            f"| {row['index']} | {row['evaluation_seconds']:.3f} "
            f"| {row['encode_queries_seconds']:.3f} | {row['search_seconds']:.3f} "
            f"| {row['evaluation_over_search']:.2f} ({low:.2f}-{high:.2f}) "
            f"| {row['manifest_seconds']:.3f} | {row['metrics_seconds']:.3f} "
            f"| {row['report_seconds']:.2f} |"
        )


def record(given: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a figure needs beside itself."""
    return {
        "commit": commit(),
        "model": given.model,
        "data": given.data.name if given.data else "generated",
        "seed": SEED,
        "hardware": to_mapping(this_hardware()),
        "versions": library_versions(),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
