"""An evaluation that is killed goes on where it was, and encodes no whole shard twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.evaluation import Result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("evaluating_program.py")
PATIENCE = 120  # seconds that a busy machine may take

DOCUMENTS = [{"_id": f"d{number}", "text": f"{number} " + "ab" * number} for number in range(30)]
QUERIES = [{"_id": f"q{number}", "text": f"{number} " + "ba" * number} for number in range(12)]
QRELS = "".join(f"q{number}\td{number}\t1\n" for number in range(12))


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def wait_until(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_killed_at_any_time_it_goes_on_and_gives_the_same_result(
    tmp_path: Path, write_beir: Callable[..., Path]
) -> None:
    data = write_beir(DOCUMENTS, QUERIES, "killed", test=QRELS)

    def start(name: str) -> subprocess.Popen[bytes]:
        folders = [tmp_path / name / each for each in ("cache", "output", "log")]
        folders[0].mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, PROGRAM, data, *folders], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    assert start("undisturbed").wait(PATIENCE) == 0
    everything = Counter(lines_of(tmp_path / "undisturbed" / "log"))
    assert len(everything) == sum(everything.values()) == 42

    log = tmp_path / "killed" / "log"
    kills = (2, 13, 29, 33, 41)  # texts begun: within documents and within queries
    for count in kills:
        process = start("killed")
        wait_until(lambda: len(set(lines_of(log))) >= count)  # noqa: B023
        process.kill()
        process.wait()
        assert not (tmp_path / "killed" / "output" / "result.json").exists()
    assert start("killed").wait(PATIENCE) == 0
    seen = Counter(lines_of(log))
    assert set(seen) == set(everything)
    # A kill costs the shard that was worked on, five texts at the most.
    assert sum(seen.values()) <= 42 + 5 * len(kills)
    runs = [tmp_path / each / "output" / "run.trec" for each in ("undisturbed", "killed")]
    assert runs[0].read_bytes() == runs[1].read_bytes()

    result = Result.from_json(tmp_path / "killed" / "output" / "result.json")
    assert result.manifest is not None
    assert any(each.is_continued for each in result.manifest.stages)
    assert start("killed").wait(PATIENCE) == 0
    assert Counter(lines_of(log)) == seen, "a finished evaluation encodes nothing"
