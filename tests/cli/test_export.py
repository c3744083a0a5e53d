"""`retrieval export`: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from retrieval import MultiVectorEncoder
from tests.cli.running import Run


def test_export_writes_what_loads_again_and_says_so(
    run: Run, tmp_path: Path, colbert: Path
) -> None:
    output = tmp_path / "pylate"
    done = run("export", colbert, "--to", "pylate", "--output", output)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{output}: pylate, ")
    exported = MultiVectorEncoder.load(output).reference
    assert exported.fingerprint == MultiVectorEncoder.load(colbert).reference.fingerprint
    assert run("export", colbert, "--to", "pylate", "--output", output).code == 2
    again = run("export", colbert, "--to", "pylate", "--output", output, "--overwrite", "--json")
    facts = json.loads(again.out)
    assert facts["folder"] == str(output)
    assert facts["model"]["fingerprint"] == exported.fingerprint
    assert facts["max_difference"] <= 1e-5


def test_export_of_a_dense_model_to_pylate_is_one_line_of_error(
    run: Run, tmp_path: Path, minilm_path: Path
) -> None:
    failed = run("export", minilm_path, "--to", "pylate", "--output", tmp_path / "pylate")
    assert failed.code == 1
    assert failed.err.strip().splitlines()[-1].startswith("error: PyLate holds multi-vector models")
    assert not (tmp_path / "pylate").exists()
