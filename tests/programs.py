"""Programs of a checkout, run as a user runs them: each in a process of its own.

Importing Sentence Transformers takes ten seconds of a processor, so these processes are forked from
one that has done it, and has done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
WARM = ["sentence_transformers", "retrieval.training.runs", "retrieval.evaluation"]


class Program(NamedTuple):
    """A program that runs, or did."""

    command: list[str]
    process: Any
    """The `multiprocessing.Process`."""
    streams: Path
    """Folder with what it wrote."""

    def wait(self, timeout: float = 1_800) -> subprocess.CompletedProcess[str]:
        """What it printed and how it ended, by the signal's number below 0 where one killed it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            shutil.rmtree(self.streams)
            raise subprocess.TimeoutExpired(self.command, timeout)
        out, err = ((self.streams / each).read_text("utf-8") for each in ("out", "err"))
        shutil.rmtree(self.streams)
        return subprocess.CompletedProcess(self.command, self.process.exitcode, out, err)


def start_program(
    name: str | Path,
    *arguments: str | Path,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Start a program, such as "eval/tables.py".

    Args:
        name: its path, from the checkout's root.
        arguments: of its command line.
        folder: where it runs.
        environment: variables beside this process's own.
    """
    command = [str(ROOT / name), *map(str, arguments)]
    streams = Path(tempfile.mkdtemp(prefix="program-"))
    variables = {**os.environ, **(environment or {})}
    process = _server().Process(target=_become, args=(command, folder, variables, streams))
    process.start()
    return Program(command, process, streams)


def run_program(
    name: str | Path, *arguments: str | Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with the options of `start_program`; a failure raises nothing."""
    return start_program(name, *arguments, **options).wait()


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)
    return context


def _become(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "out"), (2, "err")):
        with open(streams / name, "wb") as stream:
            os.dup2(stream.fileno(), descriptor)
    sys.argv = list(command)
    sys.path[:0] = [str(Path(command[0]).parent), str(ROOT)]
    runpy.run_path(command[0], run_name="__main__")
