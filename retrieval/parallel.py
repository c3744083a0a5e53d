"""Processor cores, and work that threads share while compiled code runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int | None
) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order.

    Args:
        work: lets other Python threads run, as the compiled library does.
        items: one or more for each thread, so that they finish together.
        threads: that share them; None is one for each processor core.
    """
    threads = min(threads or cpu_count(), len(items))
    if threads <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)
