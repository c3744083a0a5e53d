"""What the tests of all commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from retrieval import MultiVectorEncoder
from retrieval.cli.main import main
from tests.cli.running import LINES, Outcome, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `retrieval ARGUMENTS` and give its exit code, stdout and stderr."""

    def command(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["retrieval", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file of three documents."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(LINES), "utf-8")
    return path


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A BEIR folder of three documents and two judged queries."""
    folder = tmp_path / "capitals"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(LINES), "utf-8")
    queries = [("q1", "capital of France"), ("q2", "flour and salt")]
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": each, "text": text}) + "\n" for each, text in queries), "utf-8"
    )
    judged = "query-id\tcorpus-id\tscore\nq1\tparis\t1\nq2\tbread\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judged, "utf-8")
    return folder


@pytest.fixture(scope="session")
def colbert(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-vector model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "colbert"
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16).save(folder)
    return folder
