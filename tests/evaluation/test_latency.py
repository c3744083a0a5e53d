from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import IndexFilesError
from retrieval.evaluation.latency import _timed, in_process, measure_search
from retrieval.indexing import Batch, ExactIndex, FaissIndex, FaissSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A FAISS index of 200 vectors."""
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    batches = [Batch([f"d{n}" for n in range(200)], vectors)]
    settings = FaissSettings(factory="IVF8,Flat", nprobe=1)
    FaissIndex.build(tmp_path / "index", batches, settings=settings).close()
    return tmp_path / "index"


QUERIES = list(np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32))


def test_every_query_is_answered_as_the_index_answers(folder: Path) -> None:
    times = measure_search(folder, QUERIES, 5, threads=(1, 2))
    index = FaissIndex.open(folder)
    assert times.hits == [index.search(query[None], 5)[0] for query in QUERIES]
    assert len(times.milliseconds) == 40
    assert 0 < times.percentile(50) <= times.percentile(95) <= times.percentile(99)
    assert times.queries_per_second.keys() == {"1", "2"}
    assert min(times.queries_per_second.values()) > 0
    assert times.resident_mb is None or 0 <= times.resident_mb < 500


def test_settings_of_the_search_are_taken(folder: Path) -> None:
    everything = measure_search(folder, QUERIES, 200, search={"nprobe": 8})
    assert {len(hits) for hits in everything.hits} == {200}
    little = measure_search(folder, QUERIES, 5, search={"nprobe": 1}).hits
    best = [hits[:5] for hits in everything.hits]
    assert little != best


def test_every_query_is_timed_in_five_passes() -> None:
    asked: list[float] = []
    queries = [np.array([number], np.float32) for number in range(3)]
    milliseconds = _timed(lambda query: asked.append(float(query[0])), queries, 10.0)
    assert asked == [0, 1, 2] * 5
    assert len(milliseconds) == 3


def test_timing_ends_when_its_time_is_over_but_not_before_20_queries(folder: Path) -> None:
    times = measure_search(folder, QUERIES, 5, seconds=0.0)
    assert len(times.milliseconds) == 20
    assert len(times.hits) == 40


def test_multi_vector_queries_are_asked_one_by_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    tokens = [generator.standard_normal((n % 3 + 1, 8)).astype(np.float32) for n in range(30)]
    batches = [Batch([f"d{n}" for n in range(30)], tokens)]
    ExactIndex.build(tmp_path / "index", batches).close()
    times = measure_search(tmp_path / "index", tokens[:5], 3)
    assert times.hits == ExactIndex.open(tmp_path / "index").search(tokens[:5], 3)


def test_errors_come_back_from_the_process(tmp_path: Path) -> None:
    with pytest.raises(IndexFilesError):
        measure_search(tmp_path, QUERIES, 5)


def test_a_process_gets_its_threads_and_the_environment_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert in_process(_thread_variables, threads=3) == ["3", "3"]
    assert _thread_variables() == ["7", None]


def _thread_variables() -> list[str | None]:
    return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
