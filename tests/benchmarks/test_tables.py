"""The tables of benchmarks/README.md are what `table.py` makes of the results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_row_is_in_the_readme() -> None:
    printed = subprocess.run(
        [sys.executable, str(BENCHMARKS / "table.py")], capture_output=True, text=True, check=True
    ).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 100
    text = (BENCHMARKS / "README.md").read_text("utf-8").splitlines()
    assert [row for row in rows if row not in text] == []


def test_sizes_of_one_run_share_a_table(
    import_program: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tables = import_program("search_tables")
    report = json.loads((BENCHMARKS / "results" / "search-real-starter.json").read_text("utf-8"))
    sizes = [result["documents"] for result in report["results"]]
    tables.print_markdown(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Real documents")
    table = [line for line in lines if line.startswith("|")]
    assert [int(row.split("|")[1].replace(",", "") or 0) for row in table[2::4]] == sizes
    assert not [row for row in table if "probes" in row]
    # A peer has no place in that table.
    report["results"][1]["peers"] = [{"peer": "other", "settings": []}]
    tables.print_markdown(report)
    assert capsys.readouterr().out.count("| engine | setting |") == len(sizes)
