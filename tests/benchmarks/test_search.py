"""The search benchmark: what it judges by, the documents that it makes, and a small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.scoring import maxsim

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

ImportProgram = Callable[[str], Any]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """The benchmark, with the package of this checkout in it and in its workers."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "search.py"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def truth_module(import_program: ImportProgram) -> Any:
    return import_program("search_truth")


@pytest.fixture
def generated_module(import_program: ImportProgram) -> Any:
    return import_program("search_generated")


@pytest.fixture
def encoding_module(import_program: ImportProgram) -> Any:
    return import_program("search_encoding")


@pytest.fixture
def data_module(import_program: ImportProgram) -> Any:
    return import_program("search_data")


def test_the_truth_is_that_of_the_oracle(
    truth_module: Any, generated_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A document or two in a chunk, and fewer documents and queries at once than there are.
    monkeypatch.setattr(truth_module, "_CHUNK_TOKENS", 150)
    monkeypatch.setattr(truth_module, "_DOCUMENTS_AT_ONCE", 7)
    monkeypatch.setattr(truth_module, "_QUERIES_AT_ONCE", 2)
    block = generated_module.invent(0, 16, 1)
    lengths = block.lengths[:300]
    tokens = block.tokens[: lengths.sum()]
    queries = generated_module.invent_queries(block, 5, 7, 1)
    found = truth_module.exact_truth(queries, tokens, lengths, 4)
    scores = maxsim(list(queries), np.split(tokens, np.cumsum(lengths)[:-1]))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert found.ids.tolist() == best.tolist()
    # float32 sums in another order.
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, best, axis=1), rtol=1e-5)


def test_recall_counts_what_the_first_k_share(truth_module: Any) -> None:
    truth = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = [np.array([2, 9, 1, 3]), np.array([5], np.int64)]
    assert truth_module.recall(found, truth, 2) == pytest.approx((1 + 1) / 4)
    assert truth_module.recall(found, truth, 4) == pytest.approx((3 + 1) / 8)


def test_ndcg_is_lower_where_the_best_comes_late(truth_module: Any) -> None:
    truth = np.array([[1, 2]])
    second = 1 / np.log2(3)
    late = truth_module.ndcg([np.array([2, 1])], truth)
    assert late == pytest.approx((1 + 2 * second) / (2 + second))
    assert truth_module.ndcg([np.array([1])], truth) == pytest.approx(2 / (2 + second))


def test_generated_documents_are_new_and_the_same_again(generated_module: Any) -> None:
    source = generated_module.invent(0, 32, 0)
    one, again = (generated_module.vary(source, 3, 0) for _ in range(2))
    other = generated_module.vary(source, 4, 0)
    assert one.tokens.tobytes() == again.tokens.tobytes()
    assert one.ids.tolist() == again.ids.tolist()
    assert one.ids[:50].tolist() != other.ids[:50].tolist()
    assert len(one.tokens) == len(one.ids) == one.lengths.sum()
    norms = np.linalg.norm(one.tokens.astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)  # float16
    # A token's own source is the nearest by far, and not the same.
    nearest = (one.tokens[:20].astype(np.float32) @ source.tokens.astype(np.float32).T).max(axis=1)
    assert nearest.min() > 0.75
    assert nearest.max() < 0.99


def test_texts_come_once_and_never_as_a_query_too(encoding_module: Any, shared_data: Path) -> None:
    documents = encoding_module.read_documents(shared_data)
    queries = encoding_module.read_queries(shared_data)
    assert len(documents) > 150_000
    assert len(set(documents)) == len(documents)
    assert not set(documents) & set(queries)
    assert min(len(text) for text in documents) >= 120


@pytest.mark.parametrize("real", [True, False])
def test_a_set_goes_on_with_texts_or_with_generated_documents(
    data_module: Any,
    generated_module: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    real: bool,
) -> None:
    encoded = [generated_module.invent(number, 128, 7) for number in range(3)]
    asked: list[int] = []

    def encode(texts: list[str], folder: Path, *options: Any) -> list[int]:
        asked.append(len(texts))
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(texts) // 1000):
            block = encoded[number]
            path = data_module.block_file(folder, number)
            np.savez(path, tokens=block.tokens, ids=block.ids, lengths=block.lengths)
        return []

    monkeypatch.setattr(data_module, "DOCUMENTS", 1000)
    monkeypatch.setattr(data_module, "BLOCK", 1000)
    monkeypatch.setattr(data_module, "encode_blocks", encode)
    monkeypatch.setattr(data_module, "read_documents", lambda texts: ["a text"] * 3000)
    monkeypatch.setattr(
        data_module, "_write_queries", lambda path, *options: np.save(path, encoded[0].tokens[None])
    )
    monkeypatch.setattr(data_module, "exact_truth", lambda *options: data_module.Truth([], []))
    data = data_module.prepare(tmp_path, 2500, 0, texts=tmp_path, real=real)
    assert asked == [3000 if real else 1000]
    assert (len(data.lengths), data.is_real, data.all_real) == (2500, True, real)
    assert data.lengths[:1000].tolist() == encoded[0].lengths.tolist()
    goes_on = encoded[1].lengths.tolist()
    assert (data.lengths[1000:2000].tolist() == goes_on) == real
    tokens = np.load(data.paths.tokens)
    assert np.array_equal(tokens[: len(encoded[0].tokens)], encoded[0].tokens)
    assert len(tokens) == data.lengths.sum()


def test_a_quick_run_agrees_with_itself_and_reports_all_figures(tmp_path: Path) -> None:
    options = ["--quick", "--no-peers", "--documents", "200", "--queries", "20"]
    options += ["--seconds", "0.5", "--threads", "1", "--build-threads", "1"]
    options += ["--data", str(tmp_path), "--texts", str(tmp_path / "absent")]
    options += ["--json", str(tmp_path / "search.json")]
    printed = headlines(run(*options))
    assert set(printed) == {
        "p50_ms",
        "recall_at_10",
        "recall_at_100",
        "bytes_per_token",
        "build_seconds",
    }
    report = json.loads((tmp_path / "search.json").read_text())
    result = report["results"][0]
    assert (result["documents"], result["queries"], result["is_real"]) == (200, 20, False)
    rows = {(row["system"], row["setting"]): row for row in result["ours"]}
    exact = rows["exact", "default"]
    assert exact["recall_at_10"] == exact["recall_at_100"] == 1
    assert exact["ndcg_at_10"] == pytest.approx(1)
    # All of so few documents are scored, so that only the codes lose: with the tokens, nothing.
    assert rows["4 bits + tokens", "default"]["recall_at_10"] > 0.99
    assert 0.8 < float(printed["recall_at_10"]) == rows["4 bits", "default"]["recall_at_10"]
    assert rows["2 bits", "default"]["bytes_per_token"] < float(printed["bytes_per_token"])

    # Ten hits by another instruction set, of the same builds: no recall of a hundred.
    few = headlines(
        run(*options, "--ours", "4 bits", "--reuse", "--k", "10", "--kernels", "portable")
    )
    assert set(printed) - set(few) == {"recall_at_100"}
    assert few["bytes_per_token"] == printed["bytes_per_token"]
    assert float(few["recall_at_10"]) == pytest.approx(float(printed["recall_at_10"]), abs=0.05)
    report = json.loads((tmp_path / "search.json").read_text())
    assert (report["k"], report["hardware"]["kernels"]) == (10, "portable")


def headlines(ran: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The RESULT lines of a run that went well."""
    assert ran.returncode == 0, ran.stderr
    lines = (line.split() for line in ran.stdout.splitlines())
    return {line[1]: line[2] for line in lines if line[:1] == ["RESULT"]}


def test_a_peer_that_is_not_installed_is_refused_with_the_command(tmp_path: Path) -> None:
    ran = run("--peer", "tachiom", "--environments", str(tmp_path))
    assert ran.returncode == 2
    assert "search_peers/install.py tachiom" in ran.stderr
