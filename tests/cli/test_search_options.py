"""`retrieval search` over several indexes, reranked, and with its reasons."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from retrieval import MultiVectorEncoder
from retrieval.indexing import Retriever, open_index
from retrieval.indexing.fusion import FusionSettings, fuse
from retrieval.scoring import maxsim
from tests.cli.running import Outcome, Run

TEXTS = {
    "paris": "Paris is the capital of France.",
    "berlin": "Berlin is the capital of Germany.",
    "bread": "Bread is baked from flour, water and salt.",
}


@pytest.fixture(scope="module")
def colbert(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "colbert"
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16, query_length=8).save(folder)
    return folder


@pytest.fixture
def indexes(run: Run, tmp_path: Path, colbert: Path) -> tuple[Path, Path]:
    """A BM25 and a PLAID index of the same three documents."""
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"_id": each, "text": text}) for each, text in TEXTS.items()]
    corpus.write_text("\n".join(lines), "utf-8")
    bm25, plaid = tmp_path / "bm25", tmp_path / "plaid"
    assert run("index", corpus, "--kind", "bm25", "--output", bm25).code == 0
    assert run("index", corpus, "--model", colbert, "--output", plaid).code == 0
    return bm25, plaid


def passages(done: Outcome) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    answers: list[dict[str, Any]] = json.loads(done.out)
    found: list[dict[str, Any]] = answers[0]["passages"]
    return found


@pytest.mark.parametrize("fusion", ["rrf", "min-max", "z-score"])
def test_several_indexes_are_fused(run: Run, indexes: tuple[Path, Path], fusion: str) -> None:
    bm25, plaid = indexes
    question = "capital of Germany"
    weights = ["--weight", "2", "--weight", "0.5"]
    found = passages(
        run("search", bm25, question, "--fuse", plaid, "--fusion", fusion, *weights, "--json")
    )
    separate = [Retriever.open(each).find([question], 100)[0] for each in indexes]
    settings = FusionSettings(method=fusion, weights=(2, 0.5))  # type: ignore[arg-type]
    expected = fuse(separate, settings)
    assert [each["id"] for each in found] == [hit.document_id for hit in expected]
    assert [each["score"] for each in found] == pytest.approx([hit.score for hit in expected])
    assert {each["id"]: each["text"] for each in found} == TEXTS


def test_bm25_is_reranked_by_exact_maxsim(
    run: Run, indexes: tuple[Path, Path], colbert: Path
) -> None:
    question = "the capital of France or of Germany"
    found = passages(run("search", indexes[0], question, "--rerank", colbert, "--json"))
    encoder = MultiVectorEncoder.load(colbert)
    (query,) = encoder.encode_queries([question])
    ids = [hit.document_id for hit in open_index(indexes[0]).search([question], 10)[0]]
    items = list(encoder.encode_documents(TEXTS[each] for each in ids))
    scores = dict(zip(ids, maxsim([query], items)[0]))
    assert {each["id"] for each in found} == {"paris", "berlin"}
    assert [each["score"] for each in found] == pytest.approx(
        sorted(scores.values(), reverse=True), abs=1e-4
    )


def test_an_explanation_has_a_line_for_each_token_and_sums_to_maxsim(
    run: Run, indexes: tuple[Path, Path]
) -> None:
    found = passages(run("search", indexes[1], "bread", "--explain", "-k", "1", "--json"))
    explanation = found[0]["explanation"]
    assert len(explanation["matches"]) == 8
    total = sum(match["similarity"] for match in explanation["matches"])
    assert total == pytest.approx(explanation["score"], abs=1e-5)
    assert explanation["score"] == pytest.approx(found[0]["score"], abs=0.2)  # PLAID compresses
    shown = run("search", indexes[1], "bread", "--explain", "-k", "1").out
    assert f"{explanation['score']:.3f}" in shown
    assert "[MASK]" in shown


def test_lines_of_input_are_asked_in_turn(
    run: Run, indexes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = ["bread", "capital of Germany"]
    for explain in ([], ["--explain"]):
        arguments = [indexes[1], *explain, "--json"]
        together = json.loads(run("search", *arguments, *questions).out)
        monkeypatch.setattr("sys.stdin", io.StringIO("bread\n\n  capital of Germany \n"))
        done = run("search", *arguments)
        assert done.code == 0
        assert [json.loads(line) for line in done.out.splitlines()] == together
        assert ["explanation" in each["passages"][0] for each in together] == [bool(explain)] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("bread"))
    assert run("search", indexes[0]).out == run("search", indexes[0], "bread").out
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    failed = run("search", indexes[0])
    assert failed.code == 1
    assert failed.err.startswith("error: no question: give one")


def test_an_answer_comes_before_the_next_question_is_asked(indexes: tuple[Path, Path]) -> None:
    program = "from retrieval.cli.main import main; main()"
    command = [sys.executable, "-c", program, "search", str(indexes[0]), "--json"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        too_late = threading.Timer(60, process.kill)  # an answer that is kept back
        too_late.start()
        for question, answer in (("bread", "bread"), ("Germany", "berlin")):
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            assert (found["question"], found["passages"][0]["id"]) == (question, answer)
        process.stdin.close()
        assert process.wait() == 0
        too_late.cancel()


def test_what_does_not_fit_together_is_bad_usage(run: Run, indexes: tuple[Path, Path]) -> None:
    bm25, plaid = indexes
    for arguments, message in (
        ([bm25, "bread", "--fusion", "min-max"], "--fuse"),
        ([bm25, "bread", "--explain"], "needs a multi-vector model"),
        ([bm25, "bread", "--fuse", plaid, "--weight", "1"], "1 weights for 2 retrievers"),
        ([bm25, "bread", "--fuse", plaid, "--weight", "-1", "--weight", "1"], "0 or more"),
    ):
        failed = run("search", *arguments)
        assert failed.code == 2
        assert message in failed.err
    assert run("search", bm25, "bread", "--fuse", "no-such-index").code == 1
