"""`eval/mteb_run.py` puts our pipelines under MTEB's own command."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval import load_encoder
from retrieval.evaluation.mteb_pipeline import MtebPipeline
from retrieval.indexing import PlaidSettings
from tests.evaluation.mteb_tasks import Animals, mteb, scores

PROGRAM = Path(__file__).parents[2] / "eval" / "mteb_run.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the program in this process; MTEB knows one task, ours."""
    monkeypatch.setattr(mteb, "get_tasks", lambda **_: [Animals()])

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        runpy.run_path(str(PROGRAM), run_name="__main__")

    return run


def filed(folder: Path) -> dict[str, Any]:
    """The result in MTEB's cache."""
    (path,) = folder.rglob("Animals.json")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))["scores"]["test"][0]
    return found


def test_a_pipeline_is_run_and_its_index_and_result_are_kept(run: Any, tmp_path: Path) -> None:
    mteb_arguments = ["--tasks", "Animals", "--output-folder", str(tmp_path / "results")]
    run(
        "--model", "starter-colbert", "--device", "cpu", "--index", "plaid", "--set", "bits=8",
        "--folder", str(tmp_path / "kept"), "--", *mteb_arguments,
    )  # fmt: skip
    encoder = load_encoder("starter-colbert", device="cpu")
    pipeline = MtebPipeline(encoder, kind="plaid", settings=PlaidSettings(bits=8))
    expected = scores(pipeline, Animals())
    assert filed(tmp_path / "results")["ndcg_at_10"] == expected["ndcg_at_10"]
    (folder,) = (tmp_path / "kept").iterdir()
    assert (folder / "CURRENT").is_file()
    (path,) = (tmp_path / "results").rglob("Animals.json")
    assert encoder.reference.fingerprint[:40] in path.parts


def test_bm25_needs_no_model(run: Any, tmp_path: Path) -> None:
    run("--index", "bm25", "--", "--tasks", "Animals", "--output-folder", str(tmp_path))
    expected = scores(MtebPipeline(kind="lexical"), Animals())
    assert filed(tmp_path)["ndcg_at_10"] == expected["ndcg_at_10"]


def test_a_dry_run_says_what_would_be_filed(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("--index", "bm25", "--set", "k1=0.9", "--dry-run")
    out = capsys.readouterr().out
    assert out.startswith("modernbert-retrieval/BM25 ")
    assert "k1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to run"),
        (["--index", "plaid"], "no encoder for an index of kind 'plaid'"),
        (["--model", "starter-dense", "--folder", "kept"], "are about an index"),
        (["--index", "bm25", "--prompt", "find"], "expected KEY=TEXT"),
        (["--index", "bm25", "--set", "k2=1"], "unknown key 'k2'"),
    ],
)
def test_what_does_not_fit_ends_with_one_line(
    run: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
