from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from retrieval.evaluation.stages import Stage, StageCache, stage_key

ROOT = Path(__file__).parents[2]
INPUTS = {"data": "abc", "k": 10}


def get(cache: StageCache, inputs: dict[str, Any] = INPUTS, **options: Any) -> tuple[Stage, bool]:
    """A stage that writes its inputs, and whether it was made now."""
    made = []

    def make(folder: Path, *needed: Stage) -> dict[str, Any]:
        made.append(folder)
        (folder / "what").write_text(json.dumps(inputs))
        return {"needed": len(needed)}

    stage = cache.get("runs", inputs, make, name="search", of="it", **options)
    return stage, bool(made)


def test_equal_inputs_give_the_stage_that_is_there_and_others_another(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    first, made = get(cache)
    assert made
    assert not first.costs[0].is_reused
    again, made = get(cache, {"k": 10, "data": "abc"})
    assert not made
    assert again.folder == first.folder == tmp_path / "runs" / stage_key(INPUTS)
    assert again.costs[0].is_reused
    assert again.costs[0].seconds == first.costs[0].seconds
    assert again.facts == {"needed": 0}
    other, made = get(cache, {"k": 11, "data": "abc"})
    assert made
    assert other.folder != first.folder


def test_what_a_stage_needs_is_asked_only_where_it_is_made(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    asked = []

    def need() -> Stage:
        asked.append(1)
        return get(cache, {"needed": 1})[0]

    stage, _ = get(cache, needs=[need, need])
    assert (len(asked), stage.facts["needed"]) == (2, 2)
    assert [each.is_reused for each in stage.costs] == [False, False, True]
    again, _ = get(cache, needs=[need, need])
    assert len(asked) == 2
    assert len(again.costs) == 3
    assert all(each.is_reused for each in again.costs)


def test_a_stage_that_failed_is_made_again_in_the_same_folder(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        cache.get("runs", INPUTS, fail, name="search", of="it")
    stage, made = get(cache)
    assert made
    assert (stage.folder / "half").read_text() == "half"
    assert stage.costs[0].is_continued
    assert not get(cache)[1]


def test_a_stage_that_is_removed_is_made_again(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    stage, _ = get(cache)
    (stage.folder / "stage.json").unlink()
    assert get(cache)[1]


def test_the_seconds_are_those_of_the_stage_without_what_it_needs(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def slow() -> Stage:
        time.sleep(1)
        return get(cache, {"needed": 1})[0]

    def quick(folder: Path, needed: Stage) -> None:
        time.sleep(0.05)

    stage = cache.get("runs", {"quick": 1}, quick, name="quick", of="it", needs=[slow])
    assert 0.05 <= stage.costs[0].seconds < 1


def test_the_peak_is_the_memory_that_the_stage_held(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def heavy(folder: Path) -> None:
        held = bytearray(300_000_000)
        held[::4096] = b"x" * len(held[::4096])

    stage = cache.get("runs", {"heavy": 1}, heavy, name="heavy", of="it")
    light, _ = get(cache)
    assert stage.costs[0].peak_memory_bytes > light.costs[0].peak_memory_bytes + 200_000_000


_PROGRAM = """
import sys, time
from pathlib import Path
from retrieval.evaluation.stages import StageCache

def make(folder):
    with open(sys.argv[2], "a") as stream:
        stream.write("made\\n")
    time.sleep(0.5)

StageCache(Path(sys.argv[1])).get("runs", {"a": 1}, make, name="search", of="it")
"""


def test_of_several_processes_one_makes_a_stage_and_the_others_find_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert log.read_text() == "made\n"
