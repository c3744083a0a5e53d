"""indexes/compare.py as its first lines say, on a tiny collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.evaluation.index_sweep import IndexSweep
from tests.programs import run_program


@pytest.mark.parametrize(
    ("model", "index"),
    [
        ("starter-dense", 'kind = "faiss"\nbuild = { factory = "Flat" }'),
        ("starter-colbert", 'kind = "plaid"\nsearch = { quality = ["fast", "best"] }'),
    ],
)
def test_a_sweep_is_written_drawn_and_printed(
    tmp_path: Path, write_beir: Callable[..., Path], model: str, index: str
) -> None:
    pytest.importorskip("pytrec_eval")
    pytest.importorskip("matplotlib")
    (tmp_path / "sweep.toml").write_text(f'[[index]]\nname = "mine"\n{index}\n')
    output = tmp_path / "out" / "sweep.json"
    command: list[str | Path] = [
        "indexes/compare.py", write_beir(), "--model", model,
        "--sweep", tmp_path / "sweep.toml", "--json", output, "--about", "tiny", "--quick",
    ]  # fmt: skip
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    sweep = IndexSweep.from_json(output)
    assert (sweep.collection, sweep.documents, sweep.queries) == ("tiny", 4, 3)
    assert (sweep.model.name, sweep.about) == (model, "tiny")
    names = ["exact", "mine"] if "dense" in model else ["exact", "mine, fast", "mine, best"]
    assert [each.name for each in sweep.indexes] == names
    assert all(each.recall == {"10": 1.0, "100": 1.0} for each in sweep.indexes)
    assert str(tmp_path) not in json.dumps(output.read_text("utf-8"))
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| index | recall@10 | recall@100 | nDCG@10 | p50 ms |")
    assert f"RESULT tiny-{model}-quick_exact_recall_at_10 1.0000" in lines
