"""eval/starters.py: our figures beside those that are known."""

from __future__ import annotations

from pathlib import Path

from tests.programs import run_program


def test_what_is_measured_here_is_what_is_known_elsewhere() -> None:
    done = run_program("eval/starters.py")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.split("\n\n")[1].splitlines()[2:]]
    assert {(row[0], row[1]) for row in rows} >= {
        ("scifact", "BM25"),
        ("nfcorpus-lc", "all-MiniLM-L6-v2"),
        ("nq-qed-dev", "BM25"),
    }
    for collection, system, here, elsewhere, difference, _ in rows:
        assert float(difference) == round(float(here) - float(elsewhere), 3)
        # BM25 differs by its fields and parameters, a model by its number format.
        assert abs(float(difference)) <= (0.015 if system == "BM25" else 0.003), collection


def test_what_has_a_result_is_not_measured_again(tmp_path: Path) -> None:
    # No data is there: a result that had to be measured would be an error.
    done = run_program(
        "eval/starters.py", "--collection", "scifact", "--data", tmp_path, "--model", "BM25"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| nDCG@10 | scifact | mean |\n")
    assert "vaswani" not in done.stdout
