"""One search engine in a process of its own, which obeys lines of JSON.

The benchmark starts `python search_peers/NAME.py` with the engine's own environment, sends a line
to its standard input and reads one from its standard output. Latency is measured here, around the
call of the engine alone. This file and the engines beside it import nothing of this project but
what they measure, as they run under other Pythons.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Options = dict[str, Any]


class Data:
    """Documents as the benchmark's data program writes them."""

    def __init__(self, tokens: str, token_ids: str, lengths: str) -> None:
        self.paths = (tokens, token_ids, lengths)
        self.tokens = np.load(tokens, mmap_mode="r")
        self.token_ids = np.load(token_ids, mmap_mode="r")
        self.lengths = np.load(lengths)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    def documents(self, first: int = 0, last: int | None = None) -> list[Any]:
        """Each document's (tokens, D) float16."""
        last = len(self.lengths) if last is None else min(last, len(self.lengths))
        bounds = self.offsets[first : last + 1]
        rows = np.asarray(self.tokens[bounds[0] : bounds[-1]])
        return np.split(rows, bounds[1:-1] - bounds[0])


class Engine:
    """What an engine has to offer; documents are numbers by their place in the data."""

    packages: tuple[str, ...] = ()
    """Distributions whose versions are reported."""

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        """Make an index in an empty folder."""
        raise NotImplementedError

    def open(self, data: Data, folder: Path, threads: int) -> None:
        """Make ready for searching with so many threads."""
        raise NotImplementedError

    def prepare(self, options: Options) -> None:
        """Take over the options of the searches that follow."""

    def search(self, query: Any, k: int) -> Any:
        """The best documents of one (M, D) float32 query, best first."""
        raise NotImplementedError

    def search_all(self, queries: Any, k: int, threads: int) -> None:
        """Answer all queries as fast as so many threads can."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda query: self.search(query, k), queries))

    def bytes_beside(self, data: Data) -> int:
        """Bytes that a search reads and the folder does not hold."""
        return 0


def serve(engine: Engine) -> None:
    """Obey until standard input ends."""
    # What the engine prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    at_start = _memory_mb()
    data: Data | None = None
    queries: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        reply: dict[str, Any] = {}
        if asked["do"] == "data":
            data = Data(asked["tokens"], asked["token_ids"], asked["lengths"])
            queries = np.load(asked["queries"]).astype(np.float32)
            reply["versions"] = {name: version(name) for name in engine.packages}
            at_start = _memory_mb()
        assert data is not None, "the first line says where the data are"
        if asked["do"] == "build":
            folder = Path(asked["folder"])
            started = time.perf_counter()
            engine.build(data, folder, asked["options"], asked["threads"])
            reply["seconds"] = time.perf_counter() - started
            files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            reply["bytes"] = files + engine.bytes_beside(data)
            reply["peak_mb"] = _peak_mb()
        elif asked["do"] == "open":
            started = time.perf_counter()
            engine.open(data, Path(asked["folder"]), asked["threads"])
            reply["seconds"] = time.perf_counter() - started
        elif asked["do"] == "prepare":
            engine.prepare(asked["options"])
        elif asked["do"] == "search":
            reply = _search(engine, queries[asked["first"] : asked["last"]], asked["k"])
        elif asked["do"] == "search_all":
            chosen = list(queries[asked["first"] : asked["last"]])
            started = time.perf_counter()
            engine.search_all(chosen, asked["k"], asked["threads"])
            reply["seconds"] = time.perf_counter() - started
        elif asked["do"] == "memory":
            now = _memory_mb()
            reply = {name: now[name] - at_start[name] for name in now}
        print(json.dumps(reply), file=answers, flush=True)


def _search(engine: Engine, queries: Any, k: int) -> dict[str, Any]:
    seconds, ids = [], []
    for query in queries:
        query = np.ascontiguousarray(query)
        started = time.perf_counter()
        found = engine.search(query, k)
        seconds.append(time.perf_counter() - started)
        ids.append([int(each) for each in found])
    return {"seconds": seconds, "ids": ids}


def _memory_mb() -> dict[str, float]:
    """Resident memory: all of it, and what is not pages of files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        for name, field in (("resident_mb", "VmRSS:"), ("anonymous_mb", "RssAnon:")):
            if line.startswith(field):
                found[name] = int(line.split()[1]) / 1024
    return found


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
