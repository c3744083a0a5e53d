from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexFilesError
from retrieval.indexing import faiss_choice
from retrieval.indexing.faiss_index import FaissIndex, FaissSettings
from retrieval.indexing.index import Batch
from retrieval.indexing.versions import current_version

Matrix = NDArray[np.float32]


@pytest.fixture
def vectors() -> Matrix:
    generator = np.random.default_rng(5)
    centres = generator.standard_normal((30, 16))
    rows = centres[generator.integers(0, 30, 2000)] + 0.5 * generator.standard_normal((2000, 16))
    return rows.astype(np.float32)


@pytest.fixture
def queries(vectors: Matrix) -> Matrix:
    noise = np.random.default_rng(6).standard_normal((30, 16)).astype(np.float32)
    return vectors[:30] + 0.5 * noise


def build(folder: Path, vectors: Matrix, **settings: Any) -> FaissIndex:
    ids = [str(row) for row in range(len(vectors))]
    return FaissIndex.build(folder, [Batch(ids, vectors)], settings=FaissSettings(**settings))


def inner_type(index: FaissIndex) -> str:
    return type(faiss.downcast_index(index._faiss)).__name__


def recall(index: FaissIndex, queries: Matrix, scores: Matrix, allowed: list[int]) -> float:
    """The share of the true top 10 among the allowed rows; all hits must be allowed."""
    names = [str(row) for row in allowed]
    found = 0
    for row, hits in enumerate(index.search(queries, 10, allowed=names)):
        positions = [int(hit.document_id) for hit in hits]
        assert len(positions) == min(10, len(allowed))
        assert set(positions) <= set(allowed)
        best = sorted(allowed, key=lambda each: -scores[row, each])[:10]
        found += len(set(positions) & set(best))
    return found / (len(queries) * min(10, len(allowed)))


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("HNSW16", 0.99),
        ("HNSW16_SQ8", 0.95),
        ("IVF64,Flat", 0.98),
        ("IVF64,PQ8", 0.6),
        ("PCA12,HNSW16", 0.7),
        ("SQ8", 0.97),
        ("Binary,Flat", 0.5),
        ("Binary,SQ8", 0.5),
    ],
)
@pytest.mark.parametrize("every", [1, 4, 9, 11, 300])
def test_a_filter_of_any_width_costs_no_recall(
    factory: str, expected: float, every: int, vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    index = build(tmp_path / "index", vectors, factory=factory)
    allowed = list(range(0, len(vectors), every))
    assert recall(index, queries, queries @ vectors.T, allowed) >= expected


def test_a_narrow_filter_is_exact_however_small_the_search(
    vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    scores = queries @ vectors.T
    for factory, small in (("HNSW8", {"ef_search": 1}), ("IVF64,Flat", {"nprobe": 1})):
        index = build(tmp_path / factory.partition(",")[0], vectors, factory=factory, **small)
        assert recall(index, queries, scores, list(range(0, 2000, 20))) == 1
        assert recall(index, queries, scores, [3, 1000]) == 1


def test_too_few_hits_of_a_probe_are_made_up_by_a_scan(
    vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    # One list of 64 holds some 30 rows: FAISS alone fills up with the position -1.
    index = build(tmp_path / "index", vectors, factory="IVF64,Flat", nprobe=1)
    best = -np.sort(-(queries @ vectors.T), axis=1)[:, :500]
    for row, hits in enumerate(index.search(queries, 500)):
        assert len({hit.document_id for hit in hits}) == 500
        assert [hit.score for hit in hits] == pytest.approx(best[row].tolist(), abs=1e-4)


def test_l2_scores_are_minus_the_squared_distance(
    vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    distances = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2)
    for factory in ("Flat", "HNSW16"):
        index = build(tmp_path / factory, vectors, factory=factory, metric="l2")
        for row, hits in enumerate(index.search(queries, 3)):
            nearest = np.argsort(distances[row])[:3]
            assert [int(hit.document_id) for hit in hits] == nearest.tolist()
            assert [hit.score for hit in hits] == pytest.approx(-distances[row, nearest], rel=1e-3)


def test_the_settings_of_searching_can_be_changed(
    vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    index = build(tmp_path / "index", vectors, factory="IVF64,Flat", nprobe=1)
    scores, everything = queries @ vectors.T, list(range(len(vectors)))
    narrow = recall(index, queries, scores, everything)
    index.settings = replace(index.settings, nprobe=64)
    assert narrow < recall(index, queries, scores, everything) == 1


def test_the_size_decides_where_nothing_is_asked_for(
    vectors: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inner_type(build(tmp_path / "flat", vectors)) == "IndexFlat"
    monkeypatch.setattr(faiss_choice, "FLAT_UP_TO", 1000)
    assert inner_type(build(tmp_path / "hnsw", vectors)) == "IndexHNSWFlat"
    monkeypatch.setattr(faiss_choice, "HNSW_UP_TO", 1500)
    binary = build(tmp_path / "binary", vectors)
    assert inner_type(binary) == "IndexScalarQuantizer"
    assert binary._bits is not None
    monkeypatch.setattr(faiss_choice, "BINARY_UP_TO", 1500)
    large = build(tmp_path / "ivf", vectors)
    assert inner_type(large) == "IndexIVFPQ"
    assert large._faiss.pq.M == 4
    # 2,000 rows are enough to learn 51 lists from, and 32 is the power of two below.
    assert large._faiss.nlist == 32


@pytest.mark.parametrize(
    ("width", "rows", "memory_mb", "expected"),
    [
        (384, 50_000, None, "Flat"),
        (384, 50_000, 77, "Flat"),
        (384, 50_000, 76, "SQ8"),
        (384, 50_000, 19, "Binary,SQ8"),
        (384, 50_001, None, "HNSW32"),
        (384, 1_000_000, 1808, "HNSW32"),
        (384, 1_000_000, 1807, "HNSW32_SQ8"),
        (384, 1_000_000, 655, "Binary,SQ8"),
        (384, 1_000_001, None, "Binary,SQ8"),
        (384, 10_000_000, 479, "IVF4096,PQ24"),
        (384, 10_000_001, None, "IVF4096,PQ96"),
        (768, 100_000_000, None, "IVF4096,PQ192"),
        (768, 100_000_000, 11_000, "IVF4096,PQ96"),
        (768, 100_000_000, 6_000, "IVF4096,PQ48"),
        (30, 20_000_000, None, "IVF4096,PQ6"),
        (7, 20_000_000, None, "IVF4096,PQ1"),
    ],
)
def test_auto_follows_the_documented_thresholds(
    width: int, rows: int, memory_mb: int | None, expected: str
) -> None:
    assert FaissIndex(FaissSettings(memory_mb=memory_mb))._factory(width, rows) == expected


@pytest.mark.parametrize("rows", [40_000, 900_000, 9_000_000, 90_000_000])
def test_a_memory_that_nothing_fits_is_refused(rows: int) -> None:
    with pytest.raises(ConfigError, match=r"memory_mb is 1: .* take at least \d[\d,]* MB, as"):
        FaissIndex(FaissSettings(memory_mb=1))._factory(384, rows)


KINDS = ["Flat", "SQ8", "HNSW16", "HNSW16_SQ8", "IVF16,Flat", "IVF16,PQ8", "PCA12,HNSW16"]
KINDS += ["Binary,Flat", "Binary,SQ8"]


@pytest.mark.parametrize("factory", KINDS)
def test_an_opened_index_is_mapped_and_takes_rows_all_the_same(
    factory: str, vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    """FAISS itself ends the process where a mapped array has to grow."""
    build(tmp_path / "index", vectors[:1500], factory=factory)
    reader = FaissIndex.open(tmp_path / "index")
    writer = FaissIndex.open(tmp_path / "index", writable=True)
    for each in (reader, writer):
        assert each._file is not None
        assert each._file.is_mapped
    before = reader.search(queries, 10)
    writer.delete(["7"])
    # The files that are mapped are no longer there under their names.
    writer.save()
    assert reader.search(queries, 10) == before
    writer.add(["7", *map(str, range(1500, 2000))], vectors[[7, *range(1500, 2000)]])
    writer.save()
    assert reader.search(queries, 10) == before
    reopened = FaissIndex.open(tmp_path / "index")
    assert len(reopened) == 2000
    query = vectors[1999:] * 3
    assert "1999" in {hit.document_id for hit in reopened.search(query, 20)[0]}
    assert reopened.search(queries, 10) == writer.search(queries, 10)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF64,Flat", "Binary,SQ8"])
def test_opening_takes_no_memory_of_its_own(factory: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)
    build(tmp_path / "index", rows, factory=factory, sample=4000)
    size = sum(path.stat().st_size for path in current_version(tmp_path / "index").glob("*.faiss"))
    assert size > 7e6
    program = """
import sys
from pathlib import Path
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
from retrieval.indexing.faiss_files import FaissFile
version = Path(sys.argv[1])
before = anonymous()
opened = [FaissFile.open(version, path.name, is_binary=path.name == "binary.faiss")
          for path in sorted(version.glob("*.faiss"))]
print(anonymous() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(current_version(tmp_path / "index"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 0.1 * size


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF16,PQ8", "Binary,SQ8"])
def test_a_changed_file_is_refused_before_faiss_reads_it(
    factory: str, vectors: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", vectors, factory=factory)
    path = current_version(tmp_path / "index") / "index.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    monkeypatch.setattr(faiss, "read_index", None)
    with pytest.raises(IndexFilesError, match=r"index\.faiss: changed since it was written"):
        FaissIndex.open(tmp_path / "index")


@pytest.mark.parametrize("name", ["binary.faiss", "thresholds.safetensors"])
def test_changed_bits_are_refused_before_faiss_reads_them(
    name: str, vectors: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", vectors, factory="Binary,SQ8")
    path = current_version(tmp_path / "index") / name
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    monkeypatch.setattr(faiss, "read_index_binary", None)
    with pytest.raises(IndexFilesError, match=f"{name}: changed since it was written"):
        FaissIndex.open(tmp_path / "index")


def test_binary_scores_are_those_of_the_kept_vectors(
    vectors: Matrix, queries: Matrix, tmp_path: Path
) -> None:
    for metric, factory in (("inner_product", "Binary,Flat"), ("l2", "Binary,Flat")):
        index = build(tmp_path / metric, vectors, factory=factory, metric=metric)
        for query, hits in zip(queries, index.search(queries, 5)):
            rows = vectors[[int(hit.document_id) for hit in hits]]
            true = rows @ query if metric == "inner_product" else -((rows - query) ** 2).sum(axis=1)
            assert [hit.score for hit in hits] == pytest.approx(true.tolist(), rel=1e-4)


def test_more_rescored_rows_find_more(vectors: Matrix, queries: Matrix, tmp_path: Path) -> None:
    scores, everything = queries @ vectors.T, list(range(len(vectors)))
    index = build(tmp_path / "index", vectors, factory="Binary,Flat")
    found = []
    for rescored in (10, 200, 2000):
        index.settings = replace(index.settings, rescored=rescored)
        found.append(recall(index, queries, scores, everything))
    assert found[0] < found[1] < found[2] == 1


def test_a_width_that_is_no_multiple_of_8_has_bits_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 13)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    build(tmp_path / "index", rows, factory="Binary,Flat", rescored=5)
    for row, hits in enumerate(FaissIndex.open(tmp_path / "index").search(rows[:20], 1)):
        assert [hit.document_id for hit in hits] == [str(row)]
        assert hits[0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nonsense", "nonsense"),
        ("PQ8", "can't be searched with a filter"),
        ("IVF16,PQ8,RFlat", "can't be searched with a filter"),
        ("Binary,HNSW16", "can't re-score"),
        ("Binary,PCA8,Flat", "can't re-score"),
        ("IVF16,PQ7", "multiple"),
        ("IVF4096,Flat", "2000 vectors"),
    ],
)
def test_a_factory_that_cannot_serve_is_refused(
    factory: str, message: str, vectors: Matrix, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tmp_path / "index", vectors, factory=factory)
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_settings_below_one_are_refused() -> None:
    for name in ("nprobe", "ef_search", "ef_construction", "rescored", "sample", "memory_mb"):
        setting: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigError, match=name):
            FaissSettings(**setting)


def test_the_same_seed_gives_the_same_index(vectors: Matrix, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build(tmp_path / name, vectors, factory="IVF16,PQ8", sample=1000, seed=seed)
    first, second, other = (current_version(tmp_path / name) / "index.faiss" for name in "abc")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()
