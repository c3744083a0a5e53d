"""Encoding that is killed: whole shards stay, none is encoded again, no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("encoding_program.py")
PATIENCE = 60  # seconds that a busy machine may take

Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def start(log: Path) -> Iterator[Program]:
    """A function: start the program on a folder; what still runs at the end is killed."""
    started = []

    def start(folder: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, folder, log, *options],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def encoded(log: Path) -> list[str]:
    return [line.split()[1] for line in log.read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def wait_for(fact: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.005)


def is_alive(process: str) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture
def expected(start: Program, log: Path, tmp_path: Path) -> dict[str, bytes]:
    """The shards of a run that nobody disturbs."""
    process = start(tmp_path / "undisturbed")
    assert process.wait(PATIENCE) == 0
    log.write_text("")
    return files(tmp_path / "undisturbed")


def test_killed_at_any_time_it_goes_on_without_encoding_a_whole_shard_again(
    start: Program, log: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    folder = tmp_path / "killed"
    for count in (1, 7, 12, 26, 40):  # documents begun: within shards, and at their ends
        before = len(encoded(log))
        kept = files(folder)
        process = start(folder)
        wait_for(lambda: len(encoded(log)) >= before + 1, "it encodes")  # noqa: B023
        wait_for(lambda: len(set(encoded(log))) >= count, f"{count} documents")  # noqa: B023
        process.kill()
        process.wait()
        again = encoded(log)[before:]
        done = {f"d{5 * number + each}" for number in range(len(kept)) for each in range(5)}
        assert not done & set(again), "documents of a shard that was there"
        assert files(folder).items() >= kept.items(), "a shard that was there is gone or changed"
    assert 0 < len(files(folder)) < len(expected)
    assert start(folder).wait(PATIENCE) == 0
    assert files(folder) == expected
    assert len(encoded(log)) <= 60 + 5 * 5, "at most a shard a kill"
    assert not list(folder.glob(".*.tmp")), "temporary files of killed runs"


def test_several_processes_write_what_one_writes(
    start: Program, log: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    assert start(tmp_path / "several", "--devices", "one,two").wait(PATIENCE) == 0
    assert files(tmp_path / "several") == expected
    assert sorted(encoded(log)) == sorted(f"d{number}" for number in range(60))
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 2


@pytest.mark.parametrize(
    ("option", "problem"),
    [("--fails-at", "failed: no such word"), ("--dies-at", r"was killed (signal 9)")],
)
def test_a_process_that_fails_or_dies_is_reported_with_its_shard(
    start: Program, log: Path, tmp_path: Path, option: str, problem: str
) -> None:
    process = start(tmp_path / "folder", "--devices", "one,two", option, "d33")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert error.startswith("WorkerError: ")
    assert "shard-00006.safetensors" in error
    assert problem in error
    workers = {line.split()[0] for line in log.read_text().splitlines()}
    assert not any(map(is_alive, workers))
    assert start(tmp_path / "folder").wait(PATIENCE) == 0, "what they left can be gone on with"


def test_processes_end_when_their_parent_is_killed_whatever_they_are_at(
    start: Program, log: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    folder = tmp_path / "orphans"
    process = start(folder, "--devices", "one,two", "--stalls-at", "d22")
    wait_for(
        lambda: len(files(folder)) == 10, "all is done but what waits behind the one that stalls"
    )
    os.kill(process.pid, signal.SIGKILL)
    workers = {line.split()[0] for line in log.read_text().splitlines()}
    begun = time.monotonic()
    wait_for(lambda: not any(map(is_alive, workers)), "the processes are gone")
    assert time.monotonic() - begun < 5
    kept = files(folder)
    before = len(encoded(log))
    assert start(folder).wait(PATIENCE) == 0
    assert files(folder) == expected
    assert len(encoded(log)) - before == 60 - 5 * len(kept)
