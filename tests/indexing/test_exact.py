from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import EmbeddingError, ShapeError
from retrieval.indexing import exact
from retrieval.indexing.exact import ExactIndex, ExactSettings
from retrieval.indexing.index import Batch
from retrieval.indexing.versions import index_bytes


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
        settings = ExactSettings(dtype=dtype)
        ExactIndex.build(tmp_path / dtype, [batch], settings=settings)
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
