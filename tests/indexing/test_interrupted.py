"""kill -9 at every step of every change: the last acknowledged version opens and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHANGES = ["build", "add", "upsert", "delete", "compact"]


def interrupt(kind: str, change: str, folder: Path) -> list[dict[str, Any]]:
    program = Path(__file__).with_name("interrupted.py")
    found = subprocess.run(
        [sys.executable, str(program), kind, change, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


ALWAYS = [("exact", "delete"), ("exact", "add"), ("plaid", "build")]
"""What differs most; the slow test has the others too, half a minute each."""
EVERY = [(kind, change) for kind in ("exact", "plaid", "faiss", "lexical") for change in CHANGES]


@pytest.mark.parametrize(
    ("kind", "change"),
    [pytest.param(*each, marks=() if each in ALWAYS else pytest.mark.slow) for each in EVERY],
)
def test_a_writer_killed_at_any_step_leaves_a_whole_index(
    kind: str, change: str, memory_folder: Path
) -> None:
    steps = interrupt(kind, change, memory_folder / f"{kind} {change}")
    assert not any("error" in step for step in steps), steps
    names = [str(step["step"]) for step in steps]
    for wanted in ("sync manifest.json", "rename CURRENT", "sync CURRENT", "mkdir"):
        words = wanted.split()
        assert any(all(word in name for word in words) for name in names), (wanted, names)
    assert steps[-1]["step"] is None
    # A change that nobody acknowledged is there or is not; one that was acknowledged is there.
    assert all(("after" if step["moved"] else "before") in step["answers"] for step in steps)
    pointer = next(number for number, each in enumerate(names) if "rename CURRENT" in each)
    assert [step["moved"] for step in steps] == [number > pointer for number in range(len(steps))]
    assert all(step["next"] and len(step["left"]) == 4 for step in steps)
