"""What a sweep over index settings found, as one JSON file and as a table; its Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from retrieval.config import from_mapping, to_mapping
from retrieval.errors import ConfigError
from retrieval.evaluation.report import format_bytes
from retrieval.evaluation.report_tables import ABSENT, ReportTable, TableCell
from retrieval.files import read_json, write_json
from retrieval.records import ModelReference

SWEEP_FORMAT: Final = "index-sweep/1"


@dataclass(frozen=True, kw_only=True)
class SweptIndex:
    """How one index answered with one setting of its search."""

    name: str
    kind: str
    build: dict[str, Any]
    """The settings that it was built with, beside the defaults."""
    search: dict[str, Any]
    """And those that it was searched with."""
    recall: dict[str, float]
    """By cutoff, such as "10": the share of the exact search's best hits that was found."""
    metrics: dict[str, float]
    """By the judgements, such as nDCG@10."""
    p50_ms: float
    """Of single queries, one after the other, on one thread, each the median of several passes."""
    p95_ms: float
    p99_ms: float
    queries_per_second: dict[str, float]
    """By the number of threads, each of which asks single queries."""
    bytes_per_document: float
    """On disk, stored documents not counted."""
    build_seconds: float
    """From embeddings that are on disk."""
    resident_mb: float | None
    """By which opening it and asking all queries enlarged the process's resident memory, mapped
    pages of the index included; None where the system does not tell."""


@dataclass(frozen=True, kw_only=True)
class IndexSweep:
    """Settings of indexes measured on one collection with one model."""

    format: Literal["index-sweep/1"] = SWEEP_FORMAT
    collection: str
    split: str
    documents: int
    queries: int
    vectors: int
    """Of all documents: as many as there are, or the tokens of a multi-vector model."""
    model: ModelReference
    k: int
    """Hits a query."""
    build_threads: int
    created: str
    """When, in UTC (ISO 8601)."""
    python: str
    cpu_count: int
    versions: dict[str, str]
    about: str = ""
    """What a reader should know of the figures."""
    indexes: list[SweptIndex] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The collection and the model."""
        return f"{self.collection}, {Path(self.model.name).name}"

    @property
    def cutoffs(self) -> list[str]:
        """Those that recall was measured at."""
        return list(dict.fromkeys(cutoff for each in self.indexes for cutoff in each.recall))

    def to_json(self, path: Path) -> None:
        """Write everything as JSON, atomically; an older file is replaced."""
        write_json(path, {**to_mapping(self), "model": self.model._asdict()})

    @classmethod
    def from_json(cls, path: Path) -> IndexSweep:
        """Read what `to_json` wrote.

        Raises:
            RetrievalError: the file is missing or is not JSON.
            ConfigError: it does not hold a sweep; the message names the key.
        """
        mapping = read_json(path)
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{path}: expected a sweep, found {type(mapping).__name__}")
        return from_mapping(cls, mapping, source=str(path))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one beats: as cheap and as good, and better in one of the two.

    Args:
        points: (cost, quality); the less cost and the more quality the better.

    >>> pareto_front([(1, 0.9), (2, 0.8), (3, 1.0), (3, 0.99)])
    [True, False, True, False]
    """
    return [
        not any(
            other[0] <= cost and other[1] >= quality and other != (cost, quality)
            for other in points
        )
        for cost, quality in points
    ]


def front_of(sweep: IndexSweep, cutoff: int = 10) -> list[bool]:
    """Which indexes of a sweep are on the front of p50 latency and recall, as shown in its table.

    Rounded as shown, so that noise in the last digits makes nobody the best.
    """
    return pareto_front(
        [
            (float(format_ms(each.p50_ms)), round(each.recall[str(cutoff)], 3))
            for each in sweep.indexes
        ]
    )


def sweep_table(sweep: IndexSweep) -> ReportTable:
    """A row an index; the names on the Pareto front (p50 latency, recall@10) are the best."""
    metrics = list(dict.fromkeys(name for each in sweep.indexes for name in each.metrics))
    threads = list(dict.fromkeys(n for each in sweep.indexes for n in each.queries_per_second))
    header = (
        "index",
        *(f"recall@{cutoff}" for cutoff in sweep.cutoffs),
        *metrics,
        *(f"{percentile} ms" for percentile in ("p50", "p95", "p99")),
        *(f"queries/s, {n} thread{'' if n == '1' else 's'}" for n in threads),
        "bytes/document",
        "build s",
        "resident MB",
    )
    rows = []
    for each, is_best in zip(sweep.indexes, front_of(sweep)):
        shares = [each.recall.get(cutoff) for cutoff in sweep.cutoffs]
        shares += [each.metrics.get(name) for name in metrics]
        rates = [each.queries_per_second.get(n) for n in threads]
        rows.append(
            (
                TableCell(each.name, is_best),
                *(_cell(value, lambda value: f"{value:.3f}") for value in shares),
                *(_cell(value, format_ms) for value in (each.p50_ms, each.p95_ms, each.p99_ms)),
                *(_cell(value, lambda value: f"{value:,.0f}") for value in rates),
                _cell(each.bytes_per_document, lambda value: format_bytes(round(value))),
                _cell(each.build_seconds, lambda value: f"{value:.1f}"),
                _cell(each.resident_mb, lambda value: f"{value:,.0f}"),
            )
        )
    caption = f"{sweep.title}: indexes against exact search"
    return ReportTable(caption=caption, header=header, rows=tuple(rows))


def format_ms(value: float) -> str:
    """Milliseconds with three digits.

    >>> format_ms(0.5612), format_ms(5.678), format_ms(120.4)
    ('0.561', '5.68', '120')
    """
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def _cell(value: float | None, show: Callable[[float], str]) -> TableCell:
    return TableCell(ABSENT) if value is None else TableCell(show(value), value=value)
