"""The PLAID index: exact where it looks at everything, complete under filters, sound at the edges.

What it has in common with all indexes is tested with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError, EmbeddingError, InputError
from retrieval.files import map_arrays
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.plaid.kmeans import Nearest
from retrieval.indexing.vectors import Vectors
from retrieval.records import Hit

Tokens = Callable[[int, int], NDArray[np.float32]]
Documents = list[NDArray[np.float32]]

IDS = [f"d{at}" for at in range(400)]


@pytest.fixture(scope="module")
def documents(clustered: Tokens) -> Documents:
    """400 documents of 1 to 12 tokens."""
    lengths = np.random.default_rng(0).integers(1, 13, 400)
    return np.split(clustered(int(lengths.sum()), 1), np.cumsum(lengths)[:-1])


@pytest.fixture(scope="module")
def queries(clustered: Tokens) -> Documents:
    """20 queries of 5 tokens."""
    return np.split(clustered(100, 2), 20)


def build(
    folder: Path, documents: Documents, *, batch_size: int = 400, **settings: Any
) -> PlaidIndex:
    ids = IDS[: len(documents)]
    batches: list[Batch[Sequence[Vectors]]] = [
        Batch(ids[at : at + batch_size], documents[at : at + batch_size])
        for at in range(0, len(ids), batch_size)
    ]
    return PlaidIndex.build(folder, batches, settings=PlaidSettings(**settings))


def exact_hits(
    folder: Path, documents: Documents, queries: Documents, k: int, **search: Any
) -> list[list[Hit]]:
    index = ExactIndex.build(folder, [Batch(IDS[: len(documents)], documents)])
    return index.search(queries, k, **search)


def ids_of(hits: Sequence[Hit]) -> list[str]:
    return [hit.document_id for hit in hits]


def assert_same_up_to_ties(
    found: list[list[Hit]], expected: list[list[Hit]], all_scores: list[list[Hit]]
) -> None:
    """Place by place the same exact score, within what 256 values a component round off.

    A value is off by 0.0017 in the mean, and so is a product: a sum of five by 0.004.
    """
    for one, other, every in zip(found, expected, all_scores, strict=True):
        exact = dict(every)
        assert len(set(ids_of(one))) == len(other)
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=0.02)
        assert [exact[hit.document_id] for hit in one] == pytest.approx(
            [hit.score for hit in other], abs=0.02
        )


def recall(found: list[list[Hit]], expected: list[list[Hit]]) -> float:
    shares = [
        len(set(ids_of(one)) & set(ids_of(other))) / len(other)
        for one, other in zip(found, expected, strict=True)
    ]
    return float(np.mean(shares))


@pytest.mark.parametrize("scored", [40, 10_000])
def test_looking_at_everything_gives_the_exact_ranking(
    tmp_path: Path, documents: Documents, queries: Documents, scored: int
) -> None:
    index = build(
        tmp_path / "plaid",
        documents,
        bits=8,
        centroids=512,
        probes=512,
        scored=scored,
        margin=100,
        patience=100,
    )
    scores = exact_hits(tmp_path / "exact", documents, queries, 400)
    assert_same_up_to_ties(index.search(queries, 5), [hits[:5] for hits in scores], scores)


def test_a_tenth_of_the_documents_holds_nearly_all_hits(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents, scored=40)
    expected = exact_hits(tmp_path / "exact", documents, queries, 10)
    assert recall(index.search(queries, 10), expected) > 0.9


def test_batches_may_be_cut_anywhere(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    whole = build(tmp_path / "whole", documents, scored=40, sample_tokens=500)
    cut = build(tmp_path / "cut", documents, scored=40, sample_tokens=500, batch_size=7)
    assert whole.search(queries, 10) == cut.search(queries, 10)


def test_what_was_saved_answers_as_before(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents, scored=40)
    assert PlaidIndex.open(tmp_path / "plaid").search(queries, 10) == index.search(queries, 10)


def test_a_narrow_filter_is_searched_exhaustively(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    allowed = IDS[5:400:20]
    index = build(tmp_path / "plaid", documents, bits=8, probes=1, scored=20)
    expected = exact_hits(tmp_path / "exact", documents, queries, 20, allowed=allowed)
    for one, other in zip(index.search(queries, 20, allowed=allowed), expected, strict=True):
        assert sorted(ids_of(one)) == sorted(ids_of(other))


def test_a_wide_filter_costs_no_recall(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    allowed = IDS[::3]
    index = build(tmp_path / "plaid", documents, probes=8, scored=40)
    found = index.search(queries, 10, allowed=allowed)
    assert all(set(ids_of(hits)) <= set(allowed) for hits in found)
    expected = exact_hits(tmp_path / "exact", documents, queries, 10, allowed=allowed)
    assert recall(found, expected) > 0.9


def test_few_probes_are_widened_until_k_documents_are_there(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents, centroids=512, probes=1, scored=1)
    for k in (1, 50, 190):
        assert [len(set(ids_of(hits))) for hits in index.search(queries, k)] == [k] * 20


def test_added_documents_leave_the_centroids_alone(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents[:300], scored=40)
    before = np.array(_centroids(tmp_path / "plaid"))
    index.add(IDS[300:], documents[300:])
    index.save()
    assert np.array_equal(_centroids(tmp_path / "plaid"), before)
    opened = PlaidIndex.open(tmp_path / "plaid")
    expected = exact_hits(tmp_path / "exact", documents, queries, 10)
    assert recall(opened.search(queries, 10), expected) > 0.9
    assert ids_of(opened.search([documents[350]], 1)[0]) == [IDS[350]]


def test_deleted_documents_are_passed_over(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(
        tmp_path / "plaid", documents, bits=8, probes=512, scored=40, margin=100, patience=100
    )
    best = [hits[0].document_id for hits in index.search(queries, 1)]
    index.delete(set(best))
    index.save()
    kept = [each for each in IDS if each not in best]
    scores = exact_hits(tmp_path / "exact", documents, queries, 400, allowed=kept)
    found = PlaidIndex.open(tmp_path / "plaid").search(queries, 5)
    assert_same_up_to_ties(found, [hits[:5] for hits in scores], scores)


def test_an_empty_index_learns_from_the_first_documents(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    PlaidIndex.build(tmp_path / "plaid", [])
    index = PlaidIndex.open(tmp_path / "plaid", writable=True)
    assert index.search(queries, 3) == [[]] * 20
    index.add(["empty"], [np.empty((0, 13), np.float32)])
    assert index.search(queries, 3) == [[]] * 20
    index.save()
    index.close()
    index = PlaidIndex.open(tmp_path / "plaid", writable=True)
    index.add(IDS, documents)
    index.save()
    expected = exact_hits(tmp_path / "exact", documents, queries, 10)
    assert recall(PlaidIndex.open(tmp_path / "plaid").search(queries, 10), expected) > 0.9


def test_documents_without_tokens_are_kept_and_never_found(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    with_gaps = [
        np.empty((0, 13), np.float32) if at % 4 == 0 else each for at, each in enumerate(documents)
    ]
    index = build(tmp_path / "plaid", with_gaps)
    assert len(index) == 400
    found = index.search(queries, 400)
    filled = {each for at, each in enumerate(IDS) if at % 4}
    assert all(set(ids_of(hits)) == filled for hits in found)


def test_a_query_without_tokens_finds_nothing(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents)
    found = index.search([queries[0], np.empty((0, 13), np.float32), queries[1]], 3)
    assert [len(hits) for hits in found] == [3, 0, 3]
    alone = index.search(queries[1:2], 3)[0]
    assert ids_of(found[2]) == ids_of(alone)
    assert [hit.score for hit in found[2]] == pytest.approx([hit.score for hit in alone], abs=1e-5)


def test_zero_vectors_score_zero(tmp_path: Path, documents: Documents) -> None:
    zeros = np.zeros((3, 13), np.float32)
    index = build(tmp_path / "mixed", [*documents[:50], zeros])
    hits = index.search([documents[0], zeros], 51)
    assert {hit.document_id: hit.score for hit in hits[0]}["d50"] == 0
    assert {hit.score for hit in hits[1]} == {0.0}
    only = build(tmp_path / "only", [zeros, zeros])
    assert [hit.score for hit in only.search([documents[0]], 5)[0]] == [0, 0]


def test_longer_tokens_score_by_their_length(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    longer = [each * (1 + at % 3) for at, each in enumerate(documents)]
    index = build(tmp_path / "plaid", longer, bits=8, scored=400)
    expected = exact_hits(tmp_path / "exact", longer, queries, 5)
    for one, other in zip(index.search(queries, 5), expected, strict=True):
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=0.01)


def test_settings_of_searching_can_be_changed(
    tmp_path: Path, documents: Documents, queries: Documents
) -> None:
    index = build(tmp_path / "plaid", documents, probes=1, scored=20)
    expected = exact_hits(tmp_path / "exact", documents, queries, 10)
    narrow = recall(index.search(queries, 10), expected)
    index.settings = replace(index.settings, probes=64, scored=200)
    assert recall(index.search(queries, 10), expected) > narrow


def test_fewer_bits_take_fewer_bytes(tmp_path: Path, documents: Documents) -> None:
    sizes = []
    for bits in (2, 4):
        build(tmp_path / str(bits), documents, bits=bits)
        sizes.append(_arrays(tmp_path / str(bits))["residuals"].nbytes)
    tokens = sum(map(len, documents))
    assert sizes == [4 * tokens, 7 * tokens]


def test_a_batch_with_too_few_items_is_refused(tmp_path: Path, documents: Documents) -> None:
    with pytest.raises(InputError, match="3 ids for 2 items"):
        PlaidIndex.build(tmp_path / "plaid", [Batch(IDS[:3], documents[:2])])


def test_a_nan_is_refused_with_the_id(tmp_path: Path, documents: Documents) -> None:
    broken = [each.copy() for each in documents[:5]]
    broken[3][0, 0] = np.nan
    with pytest.raises(EmbeddingError, match="d3"):
        build(tmp_path / "plaid", broken)


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 3},
        {"centroids": 0},
        {"centroids": "many"},
        {"probes": 0},
        {"candidates": 0},
        {"scored": 0},
        {"sample_tokens": 0},
        {"iterations": 0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PlaidSettings(**settings)


def test_more_centroids_than_tokens_are_refused(tmp_path: Path, documents: Documents) -> None:
    with pytest.raises(ConfigError, match="centroids can't be learned from"):
        build(tmp_path / "plaid", documents[:3], centroids=1000)
    assert not (tmp_path / "plaid" / "CURRENT").exists()


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    version = folder / "versions" / (folder / "CURRENT").read_text().strip()
    arrays: dict[str, NDArray[Any]] = {}
    for path in version.glob("*.safetensors"):
        arrays |= map_arrays(path)
    return arrays


def _centroids(folder: Path) -> NDArray[Any]:
    return _arrays(folder)["centroids"]


def test_saving_keeps_what_finds_the_centroids(
    tmp_path: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, documents[:200]).close()
    made: list[Nearest] = []
    make = PlaidIndex._centroid_search

    def counted(self: PlaidIndex, centroids: NDArray[np.float32]) -> Nearest:
        made.append(make(self, centroids))
        return made[-1]

    monkeypatch.setattr(PlaidIndex, "_centroid_search", counted)
    with PlaidIndex.open(tmp_path, writable=True) as index:
        for at in range(200, 204):
            index.add([IDS[at]], [documents[at]])
            index.save()
        assert not made
        for first in (204, 300, 390):
            index.add(IDS[first:400], documents[first:])
            index.save()
            index.delete(IDS[first:400])
        assert len(made) == 1
        index.save()
        index.compact()
        index.add(["again"], documents[:1])
        index.save()
    (hits,) = PlaidIndex.open(tmp_path).search(documents[:1], 2)
    assert {"again", IDS[0]} == set(ids_of(hits))


def test_an_index_that_is_dropped_gives_its_lock_back(tmp_path: Path, documents: Documents) -> None:
    index = build(tmp_path, documents[:200])
    index.add(IDS[200:], documents[200:])
    index.save()
    del index  # at once, without the garbage collector
    PlaidIndex.open(tmp_path, writable=True).close()
