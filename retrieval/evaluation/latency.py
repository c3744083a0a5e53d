"""How long an opened index takes to answer, and the memory that it holds, in a fresh process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing import open_index
from retrieval.parallel import in_threads
from retrieval.records import Hit

Vectors = NDArray[np.float32]
Answer = TypeVar("Answer")

_PASSES = 5
_FEWEST_QUERIES = 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class SearchTimes:
    """How one index answered."""

    hits: list[list[Hit]]
    """Of every query, best first."""
    milliseconds: list[float]
    """Of queries that were asked one after the other, as many as the time allowed, each the median
    of several passes, so that what else the machine did counts little."""
    queries_per_second: dict[str, float]
    """By the number of threads that asked single queries at once."""
    resident_mb: float | None
    """By which opening the index and asking all queries enlarged resident memory."""

    def percentile(self, share: float) -> float:
        """Milliseconds within which `share` percent of the queries were answered."""
        return float(np.percentile(self.milliseconds, share))


def measure_search(
    folder: Path,
    queries: Sequence[Vectors],
    k: int,
    *,
    search: Mapping[str, Any] | None = None,
    threads: Sequence[int] = (1,),
    seconds: float = 10.0,
) -> SearchTimes:
    """Open an index in a process of its own, and ask it all queries, then five times by the clock.

    The first pass warms up caches and mapped pages. Every query is a search of its own, on one
    thread: what several threads do at once is ask several queries.

    Args:
        folder: of the index.
        queries: at least one, each (D,) or (M, D).
        k: hits a query.
        search: settings of the index to search with instead of its own.
        threads: numbers of them to count queries per second with.
        seconds: that all timed passes may take; 20 queries are asked at least once.

    Raises:
        IndexFilesError: no index there, or damaged files.
    """
    work = partial(_measure, folder, list(queries), k, dict(search or {}), tuple(threads), seconds)
    return in_process(work, threads=1)


def in_process(work: Callable[[], Answer], *, threads: int) -> Answer:
    """Call `work()` in a new process whose compiled libraries use so many threads."""
    with _environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))):
        context = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work).result()


def _measure(
    folder: Path,
    queries: list[Vectors],
    k: int,
    search: dict[str, Any],
    threads: tuple[int, ...],
    seconds: float,
) -> SearchTimes:
    before = _resident_mb()
    index = open_index(folder)
    if hasattr(index.settings, "threads"):
        search = {"threads": 1, **search}
    index.settings = replace(index.settings, **search)

    def ask(query: Vectors) -> list[Hit]:
        return index.search(query[None] if query.ndim == 1 else [query], k)[0]

    hits = [ask(query) for query in queries]
    after = _resident_mb()
    milliseconds = _timed(ask, queries, seconds)
    rates = {}
    for count in threads:
        asked = queries[: len(milliseconds)]
        started = time.perf_counter()
        found = list(in_threads(ask, asked, count))
        rates[str(count)] = len(asked) / (time.perf_counter() - started)
        assert found == hits[: len(asked)], "queries that are asked at once find other documents"
    return SearchTimes(
        hits=hits,
        milliseconds=milliseconds,
        queries_per_second=rates,
        resident_mb=None if before is None or after is None else after - before,
    )


def _timed(
    ask: Callable[[Vectors], object], queries: Sequence[Vectors], seconds: float
) -> list[float]:
    """Milliseconds of each query that was asked, the median of its passes."""
    taken: list[list[float]] = [[] for _ in queries]
    spent = 0.0
    for number, place in product(range(_PASSES), range(len(queries))):
        if spent > seconds and (number or place >= _FEWEST_QUERIES):
            break
        started = time.perf_counter()
        ask(queries[place])
        taken[place].append(time.perf_counter() - started)
        spent += taken[place][-1]
    return [1000 * median(each) for each in taken if each]


def _resident_mb() -> float | None:
    """Resident memory of this process in millions of bytes; None where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
