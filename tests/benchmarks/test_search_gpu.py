"""The benchmark of search on a GPU, run small and wherever torch runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_run_agrees_with_numpy_and_reports_all_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "search_gpu.py")]
    command += ["--documents", "120", "--queries", "6", "--rounds", "1"]
    command += ["--data", str(tmp_path), "--texts", str(tmp_path / "absent")]
    command += ["--json", str(tmp_path / "search.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    printed = {
        line.split()[1]: float(line.split()[2])
        for line in ran.stdout.splitlines()
        if line.startswith("RESULT")
    }
    assert set(printed) == {
        "gpu_queries_per_second",
        "gpu_recall_at_10",
        "gpu_vs_cpu",
        "gpu_exact_queries_per_second",
        "gpu_build_seconds",
        "gpu_build_vs_cpu",
    }
    assert min(printed.values()) > 0
    report = json.loads((tmp_path / "search.json").read_text())
    assert (report["documents"], report["queries"], report["is_real"]) == (120, 6, False)
    # All of so few documents are scored, and exactly at the end.
    assert report["compared"]["shared"] == 1
    assert report["compared"]["score_difference"] < 1e-3
    assert {each["recall_at_10"] for each in report["recalls"].values()} == {1.0}
    assert report["exact"]["recall_at_100"] == 1
