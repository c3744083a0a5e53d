"""What speed comparisons share: turns, reports, memory, the processor's own limit, padding."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import commit
from workloads import Shape


class PeakMemory:
    """Largest growth of this process's resident memory while it is open, sampled."""

    def __enter__(self) -> PeakMemory:
        self._start = _resident_mb()
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mb = max(self.peak_mb, _resident_mb() - self._start)


def _resident_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved() / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def product_rate(shape: Shape, *, threads: int, device: str, dtype: torch.dtype) -> float:
    """Operations a second of the layers' products alone in `dtype`, as torch does them best.

    With several threads each multiplies matrices of its own, so that nobody waits at a barrier.
    """
    sizes = [
        (shape.hidden, 3 * shape.hidden),
        (shape.hidden, shape.hidden),
        (shape.hidden, 2 * shape.intermediate),
        (shape.intermediate, shape.hidden),
    ]
    rows = 65_536 if device == "cuda" else 1024
    products = []
    with torch.inference_mode():
        for width, out in sizes:
            x = torch.randn(rows, width, dtype=dtype, device=device)
            weight = torch.randn(out, width, dtype=dtype, device=device)
            products.append((x, weight))
    operations = 2 * rows * sum(width * out for width, out in sizes)
    repeats = max(1, int(2e10 * (500 if device == "cuda" else 1) / operations))
    workers = 1 if device == "cuda" else threads
    seconds = [0.0] * workers

    def work(number: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for timed in (False, True):
                started = time.perf_counter()
                for _ in range(repeats):
                    for x, weight in products:
                        torch.nn.functional.linear(x, weight)
                if device == "cuda":
                    torch.cuda.synchronize()
                if timed:
                    seconds[number] = time.perf_counter() - started

    running = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    torch.set_num_threads(threads)
    return workers * repeats * operations / max(seconds)


def padding(texts: list[str], lengths: NDArray[np.int64], batch_size: int) -> float:
    """Padded over real tokens where texts are sorted by characters, as the peer sorts them."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    padded = sum(
        int(lengths[order[start : start + batch_size]].max())
        * len(order[start : start + batch_size])
        for start in range(0, len(order), batch_size)
    )
    return padded / int(lengths.sum())


def in_turns(run: Callable[[str], float], names: Iterable[str], repeats: int) -> dict[str, Any]:
    """Seconds of each repetition of each of `names`; nobody is always the first.

    Args:
        run: runs the one of that name and returns its seconds.
        names: what is compared.
        repeats: of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        for name in sorted(seconds, reverse=bool(number % 2)):
            seconds[name].append(run(name))
    return seconds


def print_seconds(label: str, seconds: dict[str, list[float]]) -> None:
    """A line for each system: median and spread in milliseconds."""
    for name, each in seconds.items():
        low, middle, high = (1e3 * pick(each) for pick in (min, median, max))
        print(f"{label:24} {name:6} {middle:8.1f} ms ({low:.1f}-{high:.1f})", flush=True)


def write_report(path: Path | None, benchmark: str, **figures: Any) -> None:
    """Write the figures as JSON, with commit, processor and torch."""
    if path:
        hardware = {"machine": platform.machine(), **torch.cpu.get_capabilities()}
        known = {"commit": commit(), "hardware": hardware, "torch": torch.__version__}
        path.write_text(json.dumps({"benchmark": benchmark, **known, **figures}, indent=2) + "\n")
