from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval import MultiVectorEncoder

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")
pytest.importorskip("matplotlib", reason="needs the extra [eval]")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "evaluate.py"
TEXTS = ["def f(x):\n    return x", "read a file", "the path of a file (or a folder)"]


def test_it_prints_what_an_evaluation_costs_beside_its_search(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16).save(tmp_path / "model")
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    for stem in ("corpus", "queries"):
        lines = (json.dumps({"_id": str(n), "text": text}) for n, text in enumerate(TEXTS))
        (data / f"{stem}.jsonl").write_text("\n".join(lines))
    (data / "qrels" / "test.tsv").write_text("0\t0\t1\n1\t1\t1\n")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--data", data, "--model", tmp_path / "model", "--index", "exact",
         "--repeats", "2", "--json", tmp_path / "figures.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = dict(line.split()[1:] for line in done.stdout.splitlines() if line[:6] == "RESULT")
    assert set(results) == {
        "evaluation_over_search_exact",
        "evaluation_over_search",
        "manifest_seconds",
        "metrics_seconds",
        "report_seconds",
    }
    assert float(results["evaluation_over_search"]) > 1
    figures = json.loads((tmp_path / "figures.json").read_text())
    (row,) = figures["rows"]
    assert len(row["repeats"]) == 2
    assert row["evaluation_seconds"] > row["search_seconds"] + row["encode_queries_seconds"]
