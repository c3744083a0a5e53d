from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import native
from retrieval.errors import ConfigError, EmbeddingError, ShapeError
from retrieval.indexing import exact
from retrieval.indexing.exact import ExactIndex, ExactSettings
from retrieval.indexing.index import Batch
from retrieval.indexing.native_maxsim import maxsim_of_runs
from retrieval.indexing.versions import index_bytes, manifest_checksum


def test_documents_without_tokens_are_kept_and_never_found(tmp_path: Path) -> None:
    # A true match below zero must still win against nothing.
    items = [np.empty((0, 2)), np.array([[-1.0, 0.0]]), np.empty((0, 2))]
    index = ExactIndex.build(tmp_path / "index", [Batch(["empty", "far", "none"], items)])
    query = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert len(index) == 3
    assert index.search([query], 3) == [[("far", -1.5)]]
    assert index.search([query], 3, allowed=["empty"]) == [[]]


def test_a_query_without_tokens_finds_nothing(tmp_path: Path) -> None:
    index = ExactIndex.build(tmp_path / "index", [Batch(["a"], [np.ones((2, 3))])])
    found = index.search([np.empty((0, 3)), np.ones((1, 3))], 5)
    assert found == [[], [("a", 3.0)]]


def test_equal_scores_come_in_the_order_of_adding(tmp_path: Path) -> None:
    vectors = np.array([[1.0], [2.0], [1.0], [2.0], [1.0]])
    index = ExactIndex.build(tmp_path / "index", [Batch(list("abcde"), vectors)])
    ranking = [hit.document_id for hit in index.search(np.ones((1, 1)), 4)[0]]
    assert ranking == ["b", "d", "a", "c"]


def test_chunks_do_not_change_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    items = [generator.standard_normal((count, 4)) for count in (3, 0, 9, 1, 4, 0, 2)]
    index = ExactIndex.build(tmp_path / "index", [Batch(list("abcdefg"), items)])
    queries = [generator.standard_normal((3, 4)) for _ in range(4)]
    expected = index.search(queries, 7)
    for tokens in (1, 4, 10):
        monkeypatch.setattr(exact, "_CHUNK_TOKENS", tokens)
        for hits, whole in zip(index.search(queries, 7), expected, strict=True):
            assert [hit.document_id for hit in hits] == [hit.document_id for hit in whole]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in whole])


def test_float16_takes_half_the_bytes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 64))
    batch = Batch([str(row) for row in range(500)], vectors)
    sizes = {}
    for dtype in ("float32", "float16"):
        chosen = ExactSettings(dtype=dtype)
        ExactIndex.build(tmp_path / dtype, [batch], settings=chosen)
        sizes[dtype] = index_bytes(tmp_path / dtype)
    assert sizes["float32"] - sizes["float16"] == pytest.approx(500 * 64 * 2, rel=0.01)


def test_a_value_beyond_float16_is_refused_with_the_id(tmp_path: Path) -> None:
    vectors = np.array([[1.0], [70_000.0]])
    with pytest.raises(EmbeddingError, match=r"'big'.*beyond float16"):
        ExactIndex.build(
            tmp_path / "half",
            [Batch(["small", "big"], vectors)],
            settings=ExactSettings(dtype="float16"),
        )
    index = ExactIndex.build(tmp_path / "single", [Batch(["small", "big"], vectors)])
    assert index.search(np.ones((1, 1)), 1) == [[("big", 70_000.0)]]


def test_single_vectors_and_multi_vectors_do_not_mix(tmp_path: Path) -> None:
    index = ExactIndex.build(tmp_path / "index", [Batch(["a"], np.ones((1, 3)))])
    with pytest.raises(ShapeError, match="not both"):
        index.add(["b"], [np.ones((2, 3))])
    index.close()
    reopened = ExactIndex.open(tmp_path / "index", writable=True)
    with pytest.raises(ShapeError, match="not both"):
        reopened.add(["b"], [np.ones((2, 3))])


def test_batches_of_documents_as_one_array_are_multi_vectors(tmp_path: Path) -> None:
    items = np.random.default_rng(0).standard_normal((4, 5, 3))
    index = ExactIndex.build(tmp_path / "index", [Batch(list("abcd"), items)])
    for row, name in enumerate("abcd"):
        hit = index.search(items[row : row + 1], 4)[0]
        scores = {each.document_id: each.score for each in hit}
        expected = (items[row] @ items[row].T).max(axis=1).sum()
        assert scores[name] == pytest.approx(expected, rel=1e-5)


needs_library = pytest.mark.skipif(native.library() is None, reason="no compiled library")


@needs_library
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([1, 3, 10, 60]),
    dtype=st.sampled_from(["float32", "float16"]),
    is_on_a_grid=st.booleans(),
    keeps=st.sampled_from([None, 0.1, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_a_scan_changes_no_hit(
    seed: int, k: int, dtype: Any, is_on_a_grid: bool, keeps: float | None
) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 20, 50)
    items = [generator.standard_normal((length, 16)) for length in lengths]
    if is_on_a_grid:
        # Many scores are equal.
        items = [np.sign(item) for item in items]
    ids = [str(number) for number in range(len(items))]
    queries = [generator.standard_normal((count, 16)) for count in (0, 1, 5, 33)]
    queries.append(np.sign(queries[2]))
    allowed = None if keeps is None else [each for each in ids if generator.random() < keeps]
    found = {}
    for scan in ("none", "int8"):
        with TemporaryDirectory() as folder:
            batches = [Batch(ids[:30], items[:30]), Batch(ids[30:40], items[30:40])]
            index = ExactIndex.build(
                Path(folder) / "index", batches, settings=ExactSettings(dtype=dtype, scan=scan)
            )
            index.add(ids[40:], items[40:])
            index.delete(["3", "41"])
            found[scan] = index.search(queries, k, allowed=allowed)
            index.close()
    assert found["int8"] == found["none"]


@needs_library
def test_a_scan_scores_few_documents_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    items = [generator.standard_normal((20, 64)) for _ in range(400)]
    ids = [str(number) for number in range(400)]
    index = ExactIndex.build(tmp_path / "index", [Batch(ids, items)])
    scored = []

    def counted(query: Any, rows: Any, starts: Any, *rest: Any) -> Any:
        scored.append(len(starts))
        return maxsim_of_runs(query, rows, starts, *rest)

    monkeypatch.setattr(exact, "maxsim_of_runs", counted)
    hits = index.search([items[7][:10]], 5)[0]
    assert hits[0].document_id == "7"
    assert sum(scored) < 100


@needs_library
def test_multi_vectors_are_scanned_unless_told_otherwise(tmp_path: Path) -> None:
    kinds: list[Any] = [[np.ones((2, 8))], np.ones((1, 8)), [np.ones((2, 12))]]
    scans = [
        ExactIndex.build(tmp_path / str(number), [Batch(["a"], items)]).settings.scan
        for number, items in enumerate(kinds)
    ]
    assert scans == ["int8", "none", "none"]
    assert ExactIndex.open(tmp_path / "0").settings.scan == "int8"


def test_a_scan_that_can_not_be_is_refused(tmp_path: Path) -> None:
    chosen = ExactSettings(scan="int8")
    with pytest.raises(ConfigError, match="not single vectors"):
        ExactIndex.build(tmp_path / "a", [Batch(["a"], np.ones((1, 8)))], settings=chosen)
    with pytest.raises(ConfigError, match="not multi-vectors 12 wide"):
        ExactIndex.build(tmp_path / "b", [Batch(["a"], [np.ones((2, 12))])], settings=chosen)
    with pytest.raises(ConfigError, match="scan is 'int4', expected one of"):
        ExactSettings(scan="int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads is 0, expected at least 1"):
        ExactSettings(threads=0)


def test_an_index_with_a_scan_is_searched_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    items = [generator.standard_normal((count, 8)) for count in (3, 5, 1, 0, 7)]
    chosen = ExactSettings(scan="int8")
    index = ExactIndex.build(tmp_path / "index", [Batch(list("abcde"), items)], settings=chosen)
    expected = index.search([items[0]], 5)[0]
    monkeypatch.setattr(native, "library", lambda: None)
    hits = index.search([items[0]], 5)[0]
    assert [hit.document_id for hit in hits] == [hit.document_id for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-5)


def test_an_index_of_before_the_scan_is_opened_without_one(tmp_path: Path) -> None:
    items = [np.ones((2, 8)), -np.ones((3, 8))]
    chosen = ExactSettings(scan="none")
    index = ExactIndex.build(tmp_path / "index", [Batch(["a", "b"], items)], settings=chosen)
    index.close()
    manifest_path = tmp_path / "index" / "versions" / "000001" / "manifest.json"
    fields = json.loads(manifest_path.read_text())
    del fields["parameters"]["scan"], fields["parameters"]["threads"], fields["sha256"]
    manifest_path.write_text(json.dumps(fields | {"sha256": manifest_checksum(fields)}))
    opened = ExactIndex.open(tmp_path / "index")
    assert opened.settings.scan == "none"
    assert [hit.document_id for hit in opened.search([np.ones((1, 8))], 2)[0]] == ["a", "b"]
