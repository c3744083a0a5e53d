"""Search engines in processes of their own: started, asked in JSON lines, their builds kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from search_data import SearchData
from search_systems import Build, Setting

_ENGINES = Path(__file__).with_name("search_peers")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
    "LANCE_IO_THREADS",
)


@dataclass
class Answers:
    """What a setting found, query by query, and how long each one took."""

    seconds: list[float] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)

    def add(self, reply: dict[str, Any]) -> None:
        """Append a worker's reply to "search"."""
        self.seconds += reply["seconds"]
        self.ids += [np.array(each, np.int64) for each in reply["ids"]]


class WorkerError(Exception):
    """An engine has ended before it answered."""


class Worker:
    """A running engine."""

    def __init__(
        self, build: Build, python: list[str], data: SearchData, threads: int, log: IO[bytes]
    ) -> None:
        self.build = build
        self._log = log.name
        self._threads = threads
        self._prepared: Setting | None = None
        self.open_seconds = 0.0
        environment = dict(os.environ) | dict.fromkeys(_THREAD_VARIABLES, str(threads))
        self._process = subprocess.Popen(
            [*python, str(_ENGINES / f"{build.engine}_engine.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
        paths = {name: str(path.resolve()) for name, path in data.paths._asdict().items()}
        self.versions: dict[str, str] = self._ask({"do": "data", **paths})["versions"]

    def make(self, folder: Path) -> dict[str, Any]:
        """Build in an empty folder; returns seconds, bytes and peak_mb."""
        asked = {"do": "build", "folder": str(folder.resolve()), "options": self.build.options}
        return self._ask({**asked, "threads": self._threads})

    def open(self, folder: Path) -> float:
        """Open what was built; returns seconds."""
        asked = {"do": "open", "folder": str(folder.resolve()), "threads": self._threads}
        return float(self._ask(asked)["seconds"])

    def search(self, setting: Setting, first: int, last: int, k: int) -> dict[str, Any]:
        """Answer some queries one after the other; returns their seconds and ids."""
        self._prepare(setting)
        return self._ask({"do": "search", "first": first, "last": last, "k": k})

    def seconds_for_all(self, setting: Setting, first: int, last: int, k: int) -> float:
        """Answer some queries as fast as the worker's threads can."""
        self._prepare(setting)
        asked = {"do": "search_all", "first": first, "last": last, "k": k}
        return float(self._ask({**asked, "threads": self._threads})["seconds"])

    def memory(self) -> dict[str, float]:
        """Resident memory above that of the empty process, with and without pages of files."""
        return self._ask({"do": "memory"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _prepare(self, setting: Setting) -> None:
        if self._prepared != setting:
            self._ask({"do": "prepare", "options": setting.options})
            self._prepared = setting

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"has ended at {question['do']!r}, see {self._log}")
        reply: dict[str, Any] = json.loads(line)
        return reply


class Workshop:
    """Where builds and logs of one set of documents are kept."""

    def __init__(self, data: SearchData) -> None:
        documents = data.paths.tokens
        self._folder = documents.parent / "builds" / documents.stem.removeprefix("docs_")
        self._data = data
        self._folder.mkdir(parents=True, exist_ok=True)

    def build(
        self, build: Build, python: list[str], *, threads: int, reuse: bool
    ) -> dict[str, Any]:
        """Make an index, or find one that was made with the same options and threads.

        Returns:
            seconds, bytes, peak_mb, threads, options and versions of the build.
        """
        folder, record = self._path(build, ""), self._path(build, ".json")
        if reuse and record.exists():
            kept: dict[str, Any] = json.loads(record.read_text())
            if (kept["options"], kept["threads"]) == (build.options, threads):
                return kept
        record.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with self._start(build, python, threads) as worker:
            made = worker.make(folder) | {"threads": threads, "options": build.options}
            made["versions"] = worker.versions
        record.write_text(json.dumps(made, indent=2) + "\n")
        return made

    def open(self, build: Build, python: list[str], threads: int) -> Worker:
        """Start a worker on what `build` made."""
        worker = self._start(build, python, threads)
        worker.open_seconds = worker.open(self._path(build, ""))
        return worker

    def _start(self, build: Build, python: list[str], threads: int) -> Worker:
        with self._path(build, ".log").open("ab") as log:
            return Worker(build, python, self._data, threads, log)

    def _path(self, build: Build, suffix: str) -> Path:
        return self._folder / (build.name.replace(" ", "-").replace("+", "and") + suffix)
