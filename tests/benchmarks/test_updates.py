"""The program that times changes of an index, small."""

from __future__ import annotations

import json
from pathlib import Path

from tests.programs import run_program


def test_every_change_is_timed_and_seen_by_a_reader(tmp_path: Path) -> None:
    report = tmp_path / "updates.json"
    done = run_program(
        "benchmarks/updates.py", "--documents", "3000", "--repeats", "2", "--json", str(report)
    )
    assert done.returncode == 0, done.stderr
    names = ("open_ms", "add_ms", "upsert_ms", "delete_ms", "delete_thousand_ms")
    measured = json.loads(report.read_text())
    assert measured["documents"] == 3000
    for name in names:
        assert measured[name] > 0
        assert f"RESULT {name} {measured[name]:.4g}" in done.stdout
