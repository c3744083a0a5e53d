"""One progress bar for everything that takes longer than a moment."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")

DELAY_SECONDS = 0.5
"""A job that is done sooner shows no bar."""


def track(
    iterable: Iterable[Item],
    description: str,
    total: int | None = None,
    enabled: bool = True,
) -> Iterator[Item]:
    """Pass `iterable` on and show on stderr how far it is: count, rate and time left.

    On a terminal the bar appears after half a second, and stays when the job is done. Where
    stderr is no terminal, one line is written at the end instead. Do not nest two of them.

    Args:
        iterable: what to go through.
        description: what is being done, such as "searching".
        total: how many items there are; asked of `iterable` where None, unknown at worst.
        enabled: False shows nothing.
    """
    if not enabled:
        yield from iterable
        return
    if total is None:
        total = operator.length_hint(iterable) or None
    console = Console(stderr=True)
    if console.is_interactive:
        yield from _with_bar(iterable, description, total, console)
    else:
        yield from _with_closing_line(iterable, description, console)


class Stages:
    """Announces on stderr which of a program's steps it is at, and how long the last one took."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._console = Console(stderr=True)
        self._started = time.perf_counter()
        self._stage_started: float | None = None

    def __call__(self, description: str) -> None:
        """Begin the next step."""
        self._end_stage()
        self._number += 1
        self._stage_started = time.perf_counter()
        self._console.print(f"[{self._number}/{self._total}] {description}", markup=False)

    def finish(self) -> None:
        """End the last step."""
        self._end_stage()
        self._console.print(f"done in {time.perf_counter() - self._started:.0f} s")

    def _end_stage(self) -> None:
        if self._stage_started is not None:
            seconds = time.perf_counter() - self._stage_started
            self._console.print(f"      {seconds:.1f} s", style="dim", highlight=False)


def _with_bar(
    iterable: Iterable[Item], description: str, total: int | None, console: Console
) -> Iterator[Item]:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    task = progress.add_task(description, total=total)
    # A timer, because the first item alone can take longer than the delay.
    timer = threading.Timer(DELAY_SECONDS, progress.start)
    timer.daemon = True
    timer.start()
    try:
        for item in iterable:
            yield item
            progress.advance(task)
        if total is None:
            progress.update(task, total=progress.tasks[0].completed)
    finally:
        timer.cancel()
        timer.join()
        progress.stop()


def _with_closing_line(
    iterable: Iterable[Item], description: str, console: Console
) -> Iterator[Item]:
    started = time.perf_counter()
    count = 0
    for item in iterable:
        yield item
        count += 1
    seconds = time.perf_counter() - started
    rate = count / seconds if seconds else 0.0
    console.print(
        f"{description}: {count:,} in {seconds:.1f} s ({format_rate(rate)})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def format_rate(rate: float) -> str:
    """Items per second with three digits or all that are before the point.

    >>> format_rate(0.51), format_rate(21.34), format_rate(12345.6)
    ('0.51/s', '21.3/s', '12,346/s')
    """
    decimals = 2 if rate < 10 else 1 if rate < 100 else 0
    return f"{rate:,.{decimals}f}/s"


class _RateColumn(ProgressColumn):
    """Items per second since the start."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(format_rate(rate), style="progress.data.speed")
