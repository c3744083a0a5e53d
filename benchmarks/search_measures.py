"""Measure one setting of an engine, and two of them side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from search_systems import Build, Setting
from search_truth import Truth, ndcg, recall
from search_workers import Answers, Worker

_FEWEST_QUERIES = 20
_BATCH = 50


@dataclass(kw_only=True)
class Row:
    """What is known of one setting."""

    build: Build
    setting: Setting
    k: int
    answers: Answers
    measured: dict[str, Any]

    def quality(self, truth: Truth, queries: int | None = None) -> dict[str, float]:
        """Agreement with the truth on the first queries; recall@100 where so many are wanted."""
        found = self.answers.ids[:queries]
        best = truth.ids[: len(found)]
        figures = {"recall_at_10": recall(found, best, 10), "ndcg_at_10": ndcg(found, best, 10)}
        if self.k >= 100:
            figures["recall_at_100"] = recall(found, best, 100)
        return figures

    def record(self) -> dict[str, Any]:
        """The figures for JSON, without the answers."""
        return {
            "system": self.build.name,
            "build": self.build.options,
            "setting": self.setting.name,
            "options": asdict(self.setting)["options"],
            **self.measured,
        }


def measure(
    worker: Worker,
    setting: Setting,
    truth: Truth,
    built: dict[str, Any],
    *,
    k: int,
    budget_seconds: float,
) -> Row:
    """Ask as many queries as the budget allows, 20 at least, one after the other."""
    total = len(truth.ids)
    worker.search(setting, 0, min(3, total), k)
    answers = Answers()
    while len(answers.ids) < total:
        done, spent = len(answers.ids), sum(answers.seconds)
        if done >= _FEWEST_QUERIES and spent > budget_seconds:
            break
        step = _BATCH if done and spent / done < 0.02 else 10
        answers.add(worker.search(setting, done, min(done + step, total), k))
    milliseconds = np.array(answers.seconds) * 1000
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99)).tolist()
    row = Row(build=worker.build, setting=setting, k=k, answers=answers, measured={})
    row.measured = {
        "queries": len(answers.ids),
        **row.quality(truth),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "queries_per_second": 1000 / float(milliseconds.mean()),
        "build_seconds": built["seconds"],
        "bytes": built["bytes"],
        "open_ms": worker.open_seconds * 1000,
        **worker.memory(),
    }
    return row


def throughput(worker: Worker, row: Row, *, budget_seconds: float) -> float:
    """Queries a second where the worker's threads share them; the median of three runs."""
    total = len(row.answers.ids)
    expected = row.measured["p50_ms"] / 1000
    count = int(min(total, max(8, budget_seconds / 3 / expected)))
    worker.seconds_for_all(row.setting, 0, min(4, count), row.k)
    seconds = [worker.seconds_for_all(row.setting, 0, count, row.k) for _ in range(3)]
    return count / median(seconds)


def cheapest(rows: list[Row], peer: Row, truth: Truth) -> Row | None:
    """Ours with the lowest latency whose recall (at 10, and at 100) is at least the peer's.

    All are judged by the queries that the peer has answered and ours as well.
    """
    fitting = []
    for row in rows:
        shared = min(len(row.answers.ids), len(peer.answers.ids))
        ours, theirs = row.quality(truth, shared), peer.quality(truth, shared)
        if all(ours[name] >= theirs[name] for name in ours if name.startswith("recall")):
            fitting.append(row)
    return min(fitting, key=lambda row: float(row.measured["p50_ms"]), default=None)


def side_by_side(
    ours: tuple[Worker, Row], peer: tuple[Worker, Row], *, rounds: int, budget_seconds: float
) -> dict[str, Any]:
    """Both answer the same queries in turns; each round begins with the other one.

    Returns:
        Both medians of each round in milliseconds, and the median, least and largest ratio.
    """
    available = min(len(ours[1].answers.ids), len(peer[1].answers.ids))
    expected = (ours[1].measured["p50_ms"] + peer[1].measured["p50_ms"]) / 1000
    each = int(max(3, min(available // rounds, budget_seconds / rounds / expected)))
    medians: dict[str, list[float]] = {"ours_ms": [], "peer_ms": []}
    for number in range(rounds):
        first = number * each % max(1, available - each + 1)
        turns = [("ours_ms", ours), ("peer_ms", peer)]
        for name, (worker, row) in turns if number % 2 else reversed(turns):
            found = worker.search(row.setting, first, first + each, row.k)
            medians[name].append(1000 * median(found["seconds"]))
    ratios = [theirs / own for own, theirs in zip(medians["ours_ms"], medians["peer_ms"])]
    return {
        **medians,
        "queries_per_round": each,
        "ratio": median(medians["peer_ms"]) / median(medians["ours_ms"]),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
