"""What index settings cost and lose: each index of a recipe against exact search."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrieval.config import from_mapping
from retrieval.encoders.embedding_store import EmbeddingStore
from retrieval.errors import ConfigError
from retrieval.evaluation.index_sweep import SweptIndex
from retrieval.evaluation.latency import SearchTimes, Vectors, in_process, measure_search
from retrieval.evaluation.metrics import evaluate_run, load_pytrec_eval
from retrieval.indexing import Index, index_class
from retrieval.indexing.retriever import build_index
from retrieval.indexing.search_settings import check_search_settings
from retrieval.indexing.versions import index_bytes
from retrieval.parallel import cpu_count
from retrieval.qrels import Qrels
from retrieval.records import Hit


@dataclass(frozen=True, kw_only=True)
class IndexVariant:
    """An index to build once, and the settings to search it with."""

    name: str
    """In tables; what it is searched with is added behind a comma."""
    kind: Literal["exact", "faiss", "plaid"]
    build: dict[str, Any] = field(default_factory=dict)
    """Settings of the index, over its defaults."""
    search: dict[str, list[Any]] = field(default_factory=dict)
    """Values of settings that concern searching alone; every combination is measured."""

    def __post_init__(self) -> None:
        try:
            check_search_settings(self.kind, self.search)
        except ConfigError as error:
            raise ConfigError(
                f"index {self.name!r}: {error}: put it under build, in an index of its own"
            ) from error
        for name, values in self.search.items():
            if not values:
                raise ConfigError(f"index {self.name!r}: {name} has no values")
        self.settings(threads=1)

    def settings(self, *, threads: int) -> Any:
        """The dataclass that the index is built with.

        Raises:
            ConfigError: a setting that the index does not have, or a value out of range.
        """
        kind = index_class(self.kind).settings_type
        mapping = dict(self.build)
        if any(each.name == "threads" for each in fields(kind)):
            mapping = {"threads": threads, **mapping}
        return from_mapping(kind, mapping, source=f"index {self.name!r}")

    def searches(self) -> list[dict[str, Any]]:
        """All combinations of the settings to search with; one empty one where there are none."""
        return [dict(zip(self.search, values)) for values in product(*self.search.values())]


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """The indexes of a sweep; exact search is always measured as well, as the first one."""

    about: str = ""
    index: tuple[IndexVariant, ...]

    def __post_init__(self) -> None:
        names = [each.name for each in self.index]
        if len(set(names)) < len(names) or EXACT.name in names:
            raise ConfigError(f"indexes need different names, and not {EXACT.name!r}: {names}")


EXACT = IndexVariant(name="exact", kind="exact")


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """How a sweep measures.

    Attributes:
        cutoffs: of recall against exact search; the greatest is the number of hits.
        metrics: by the judgements.
        threads: numbers of threads to count queries per second with.
        build_threads: of each build.
        seconds: that the timed passes over the queries may take; see `measure_search`.
    """

    cutoffs: tuple[int, ...] = (10, 100)
    metrics: tuple[str, ...] = ("nDCG@10",)
    threads: tuple[int, ...] = (1, cpu_count()) if cpu_count() > 1 else (1,)
    build_threads: int = 1
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("cutoffs", "threads"):
            if min(getattr(self, name), default=0) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected numbers from 1")
        if self.build_threads < 1:
            raise ConfigError(f"build_threads is {self.build_threads}, expected at least 1")


def sweep_indexes(
    embeddings: EmbeddingStore,
    queries: Mapping[str, Vectors],
    qrels: Qrels,
    variants: Sequence[IndexVariant],
    work: Path,
    settings: SweepSettings | None = None,
) -> list[SweptIndex]:
    """Build and search exact search and all variants, one after the other.

    Args:
        embeddings: of the documents.
        queries: by id, each (D,) or (M, D).
        qrels: judgements of the queries.
        variants: what to measure; an index is removed once it was.
        work: a folder for the indexes, empty or not there.
        settings: defaults where None.

    Returns:
        A line for exact search, then one for each variant and combination of search settings.

    Raises:
        MissingExtraError: pytrec_eval is not installed.
        ConfigError: an index that can't be built with these settings from these vectors.
    """
    load_pytrec_eval()
    settings = settings or SweepSettings()
    k = max(settings.cutoffs)
    truth: SearchTimes | None = None
    swept = []
    for number, variant in enumerate([EXACT, *variants]):
        folder = work / f"index-{number}"
        build = partial(
            build_index,
            folder,
            embeddings,
            kind=variant.kind,
            settings=variant.settings(threads=settings.build_threads),
        )
        seconds = in_process(partial(_timed_build, build), threads=settings.build_threads)
        for search in variant.searches():
            times = measure_search(
                folder,
                list(queries.values()),
                k,
                search=search,
                threads=settings.threads,
                seconds=settings.seconds,
            )
            truth = truth or times
            shown = "".join(f", {_named(key, value)}" for key, value in search.items())
            run = dict(zip(queries, times.hits))
            swept.append(
                SweptIndex(
                    name=variant.name + shown,
                    kind=variant.kind,
                    build=variant.build,
                    search=search,
                    recall={
                        str(cutoff): recall(times.hits, truth.hits, cutoff)
                        for cutoff in settings.cutoffs
                    },
                    metrics=evaluate_run(qrels, run, settings.metrics).mean,
                    p50_ms=times.percentile(50),
                    p95_ms=times.percentile(95),
                    p99_ms=times.percentile(99),
                    queries_per_second=times.queries_per_second,
                    bytes_per_document=index_bytes(folder) / len(embeddings),
                    build_seconds=seconds,
                    resident_mb=times.resident_mb,
                )
            )
        shutil.rmtree(folder)
    return swept


def recall(found: Sequence[Sequence[Hit]], truth: Sequence[Sequence[Hit]], cutoff: int) -> float:
    """The mean share of the true best `cutoff` hits that are among those found.

    A query with fewer true hits counts by those that there are, one without any as 1.

    >>> recall([[Hit("a", 2.0), Hit("b", 1.0)]], [[Hit("a", 2.0), Hit("c", 1.5)]], 2)
    0.5
    """
    shares = []
    for hits, best in zip(found, truth, strict=True):
        wanted = {hit.document_id for hit in best[:cutoff]}
        met = wanted & {hit.document_id for hit in hits[:cutoff]}
        shares.append(len(met) / len(wanted) if wanted else 1.0)
    return float(np.mean(shares))


def _named(setting: str, value: Any) -> str:
    """A setting for a table: words speak for themselves, numbers say what they are of."""
    return value if isinstance(value, str) else f"{setting} {value}"


def _timed_build(build: Callable[[], Index[Any]]) -> float:
    started = time.perf_counter()
    with build():
        return time.perf_counter() - started
