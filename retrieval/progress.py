"""One progress bar for everything that takes longer than a moment."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
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
    """Pass `iterable` on and show on stderr how far it is; see `Meter`. Do not nest two of them.

    Args:
        iterable: what to go through.
        description: what is being done, such as "searching".
        total: how many items there are; asked of `iterable` where None, unknown at worst.
        enabled: False shows nothing.
    """
    if enabled and total is None:
        total = operator.length_hint(iterable) or None
    with Meter(description, total, enabled=enabled) as meter:
        for item in iterable:
            yield item
            meter.advance()


class Meter:
    """Shows on stderr how far work is that comes in lots: count, rates and time left.

    On a terminal a bar appears after half a second, and stays when the work is done. Where stderr
    is no terminal, one line is written at the end instead. Rates and the time left come from what
    was done in this run: what is skipped is no work.

    Args:
        description: what is being done, such as "searching".
        total: how many items there are, those that will be skipped included; None if unknown.
        enabled: False shows nothing.
        part: what items are made of and `advance` counts as well, such as "tokens".
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        enabled: bool = True,
        part: str | None = None,
    ) -> None:
        self.description = description
        self.total = total
        self.part = part
        self.done = 0
        self.parts = 0
        self.skipped = 0
        self.remark = ""
        """Said at the end, such as what went wrong with some of the items."""
        self._started = time.perf_counter()
        self._seconds: float | None = None
        self._console = Console(stderr=True) if enabled else None
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_interactive:
            self._bar = _Bar(self, self._console)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._seconds = self.seconds
        if self._bar is not None:
            if kind is None and self.total is None:
                self.total = self.completed
            self._bar.stop()
        if self._console is None or kind is not None:
            return
        if self._bar is None:
            self._print(f"{self.description}: {self.summary()}")
        elif self.remark:
            self._print(self.remark)

    def advance(self, count: int = 1, parts: int = 0) -> None:
        """Count items that were done, and what they are made of."""
        self.done += count
        self.parts += parts
        self._refresh()

    def skip(self, count: int) -> None:
        """Count items that were done before this run."""
        self.skipped += count
        if not self.done:  # the clock starts with the first work
            self._started = time.perf_counter()
        self._refresh()

    @property
    def completed(self) -> int:
        """Items done, now or before."""
        return self.done + self.skipped

    @property
    def seconds(self) -> float:
        """How long the work has taken."""
        return time.perf_counter() - self._started if self._seconds is None else self._seconds

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the rate so far; None if that can't be told."""
        if self.total is None or not self.done:
            return None
        return max(0, self.total - self.completed) * self.seconds / self.done

    def rates(self) -> str:
        """Items, and parts of them, per second."""
        rates = [format_rate(_per_second(self.done, self.seconds))]
        if self.part and self.parts:
            rates.append(f"{self.part} {format_rate(_per_second(self.parts, self.seconds))}")
        return ", ".join(rates)

    def summary(self) -> str:
        """All of it in one line."""
        parts = f" with {self.parts:,} {self.part}" if self.part and self.parts else ""
        facts = [f"{self.done:,}{parts} in {self.seconds:.1f} s ({self.rates()})"]
        if self.skipped:
            facts.append(f"{self.skipped:,} were there already")
        if self.remark:
            facts.append(self.remark)
        return "; ".join(facts)

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.refresh()

    def _print(self, text: str) -> None:
        assert self._console is not None, "only an enabled meter prints"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


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


def format_rate(rate: float) -> str:
    """Items per second with three digits or all that are before the point.

    >>> format_rate(0.51), format_rate(21.34), format_rate(12345.6)
    ('0.51/s', '21.3/s', '12,346/s')
    """
    decimals = 2 if rate < 10 else 1 if rate < 100 else 0
    return f"{rate:,.{decimals}f}/s"


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0


class _Bar:
    """A meter on a terminal."""

    def __init__(self, meter: Meter, console: Console) -> None:
        self._meter = meter
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _MeterColumn(meter.rates, "progress.data.speed"),
            _MeterColumn(self._time, "progress.remaining"),
            console=console,
        )
        self._task = self._progress.add_task(meter.description, total=meter.total)
        # A timer, because the first item alone can take longer than the delay.
        self._timer = threading.Timer(DELAY_SECONDS, self._progress.start)
        self._timer.daemon = True
        self._timer.start()

    def refresh(self) -> None:
        meter = self._meter
        self._progress.update(
            self._task,
            description=meter.description,
            completed=meter.completed,
            total=meter.total,
        )

    def stop(self) -> None:
        self.refresh()
        self._timer.cancel()
        self._timer.join()
        self._progress.stop()

    def _time(self) -> str:
        """What is left, or what it took in the end."""
        meter = self._meter
        is_done = meter.total is not None and meter.completed >= meter.total
        seconds = meter.seconds if is_done else meter.seconds_left
        return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))


class _MeterColumn(ProgressColumn):
    def __init__(self, text: Callable[[], str], style: str) -> None:
        super().__init__()
        self._text = text
        self._style = style

    def render(self, task: Task) -> Text:
        return Text(self._text(), style=self._style)
