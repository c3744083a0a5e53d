"""Search, build and exact MaxSim through torch against NumPy, on the CPU, and on a GPU if any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import ConfigError, ShapeError
from retrieval.indexing import open_index
from retrieval.indexing.index import Batch
from retrieval.indexing.on_gpu import (
    ExactMaxSim,
    TorchCentroidSearch,
    TorchPlaidIndex,
    TorchSearcher,
)
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.numpy_search import Effort, NumpySearcher
from retrieval.indexing.vectors import Vectors
from retrieval.records import Hit
from retrieval.scoring import maxsim
from tests.indexing.plaid.plaid_worlds import ROUNDINGS, PlaidWorld, Rounding, cases, make_world

Floats = NDArray[np.float32]
Ranked = tuple[NDArray[np.int64], Floats]

QUERY_LENGTHS = (1, 15, 32, 33, 70, 5)
TOLERANCE = 2e-4
"""Of a score up to 140, a sum of 70 products: float32, added in another order."""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def lengths_of(count: int, seed: int, least: int = 0) -> list[int]:
    lengths: list[int] = np.random.default_rng(seed).integers(least, 40, count).tolist()
    return lengths


def queries_of(world: PlaidWorld, lengths: Sequence[int] = QUERY_LENGTHS) -> list[Floats]:
    return [world.query(count, seed=count, is_unit=False) for count in lengths]


def assert_same(found: Ranked, expected: Ranked, tolerance: float = TOLERANCE) -> None:
    """The same documents with the same scores; those of equal scores in any order."""
    positions, scores = found
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    wanted = dict(zip(expected[0].tolist(), expected[1].tolist()))
    assert set(positions.tolist()) == set(wanted)
    assert len(positions) == len(wanted)
    assert scores == pytest.approx([wanted[at] for at in positions.tolist()], abs=tolerance)


@pytest.mark.parametrize(("width", "rounding"), cases([8, 13, 48, 128, 256]))
def test_all_documents_have_the_scores_of_numpy(
    device: str, width: int, rounding: Rounding
) -> None:
    world = make_world(width, rounding, lengths_of(90, width, 1), cuts=(50, 51))
    slow = NumpySearcher(world.codec, world.segments)
    fast = TorchSearcher(world.codec, world.segments, device)
    everything = np.arange(90)
    for rescored, margin in ((0, math.inf), (0, 0.2), (90, 0.2), (20, math.inf)):
        effort = Effort(1, 1, 1, rescored, margin)
        queries = queries_of(world)
        for query, found in zip(queries, fast.rank_many(queries, everything, effort)):
            assert_same(found, slow.rank(query, everything, effort))


def test_what_would_stop_early_scores_fewer_at_once(device: str) -> None:
    world = make_world(16, 4, [3] * 900)
    fast = TorchSearcher(world.codec, world.segments, device)
    query = world.query(8, 0)
    for patience, wanted, scored in ((2.0, 10, 500), (2.0, 100, 600), (math.inf, 10, 800)):
        effort = Effort(64, 900, 800, 0, math.inf, wanted, patience)
        assert len(fast.search(query, effort, None)[0]) == scored
    assert Effort(64, 900, 300, 0, math.inf, 10, 2.0).scored_at_once == 300


@pytest.mark.parametrize("keeps_tokens", [False, True])
def test_a_search_finds_what_numpy_finds(device: str, keeps_tokens: bool) -> None:
    world = make_world(64, 4, lengths_of(300, 0), cuts=(100, 220, 221))
    if not keeps_tokens:
        world = world._replace(segments=[each._replace(tokens=None) for each in world.segments])
    slow = NumpySearcher(world.codec, world.segments)
    fast = TorchSearcher(world.codec, world.segments, device)
    # Of short queries many documents are equal at a stage's edge, where either may pass on.
    queries = queries_of(world, (32, 70, 33, 40))
    for probes, candidates, scored, rescored in (
        (64, 300, 300, 0),
        (8, 100, 40, 0),
        (8, 300, 40, 20),
        (4, 40, 60, 30),
    ):
        effort = Effort(probes, candidates, scored, rescored, 0.3)
        for query, found in zip(queries, fast.search_many(queries, effort, None)):
            assert len(found[0]) == min(scored, candidates, 292, (keeps_tokens and rescored) or 292)
            assert_same(found, slow.search(query, effort, None))


def test_estimates_of_candidates_are_those_of_numpy() -> None:
    world = make_world(64, 4, lengths_of(300, 0), cuts=(100,), centroids=128)
    slow = NumpySearcher(world.codec, world.segments)
    fast = TorchSearcher(world.codec, world.segments, "cpu", memory_bytes=1 << 14)
    query = world.query(9, 1)
    for probes in (1, 3, 128):
        similarities = query @ world.codec.centroids.T
        found, scores = slow.candidates(similarities, probes, None)
        estimates = fast._candidates(
            torch.from_numpy(similarities)[None], torch.ones((1, 9), dtype=torch.bool), probes
        )[0].numpy()
        assert np.flatnonzero(estimates > -np.inf).tolist() == found.tolist()
        assert estimates[found] == pytest.approx(scores, abs=1e-5)


def test_a_long_query_beside_it_makes_a_short_one_meet_no_more_documents(device: str) -> None:
    world = make_world(64, 4, lengths_of(300, 7), cuts=(100,), centroids=256)
    slow = NumpySearcher(world.codec, world.segments)
    fast = TorchSearcher(world.codec, world.segments, device)
    effort = Effort(2, 300, 300, 0)
    queries = queries_of(world, (1, 40, 2))
    for query, found in zip(queries, fast.search_many(queries, effort, None)):
        assert_same(found, slow.search(query, effort, None))
        assert len(found[0]) < 150 or len(query) == 40


def test_a_batch_changes_no_answer(device: str) -> None:
    world = make_world(48, 2, lengths_of(200, 1), cuts=(70,))
    fast = TorchSearcher(world.codec, world.segments, device)
    effort = Effort(6, 80, 30, 10, 0.3)
    queries = queries_of(world)
    for query, found in zip(queries, fast.search_many(queries, effort, None)):
        alone = fast.search(query, effort, None)
        # On a tie at a stage's edge rounding decides, and the size of a product moves that.
        assert found[1] == pytest.approx(alone[1], abs=1e-3 if len(query) > 5 else 0.2)


@pytest.mark.parametrize("memory_bytes", [1 << 10, 1 << 17])
def test_little_memory_changes_no_answer(memory_bytes: int) -> None:
    world = make_world(64, 4, [*lengths_of(100, 2), 600], cuts=(70,))
    whole = TorchSearcher(world.codec, world.segments, "cpu")
    small = TorchSearcher(world.codec, world.segments, "cpu", memory_bytes=memory_bytes)
    effort = Effort(64, 101, 101, 40, 0.3)
    queries = queries_of(world)[:4]
    mask = np.arange(101) % 4 > 0
    for one, other in zip(
        small.search_many(queries, effort, mask), whole.search_many(queries, effort, mask)
    ):
        assert_same(one, other)


def test_a_mask_is_kept(device: str) -> None:
    world = make_world(64, 4, lengths_of(300, 2, 1), cuts=(100,))
    slow = NumpySearcher(world.codec, world.segments)
    fast = TorchSearcher(world.codec, world.segments, device)
    mask = np.arange(300) % 7 == 3
    effort = Effort(64, 300, 300, 0)
    for query, found in zip(queries_of(world), fast.search_many(queries_of(world), effort, mask)):
        assert set(found[0].tolist()) == set(np.flatnonzero(mask).tolist())
        assert_same(found, slow.search(query, effort, mask))


def test_equal_scores_come_in_order_of_position() -> None:
    world = make_world(16, 4, [3] * 8)
    twice = [world.segments[0]] * 3
    found, scores = TorchSearcher(world.codec, twice, "cpu").search(
        world.query(4, 0), Effort(16, 24, 24, 0), None
    )
    for first, second in zip(range(0, 24, 3), range(3, 27, 3)):
        same = found[first:second]
        assert same.tolist() == sorted(same.tolist())
        assert set((same % 8).tolist()) == {int(same[0]) % 8}
        assert len(set(scores[first:second].tolist())) == 1


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape_has_the_scores_of_numpy(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from((3, 8, 64, 96)))
    lengths = data.draw(st.lists(st.integers(0, 70), min_size=1, max_size=30))
    if not sum(lengths):
        lengths[0] = 1
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=3)))
    rounding = data.draw(st.sampled_from([each for each in ROUNDINGS if each.takes(width)]))
    world = make_world(width, rounding, lengths, cuts, centroids=data.draw(st.integers(1, 40)))
    counts = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    queries = [world.query(count, seed=at) for at, count in enumerate(counts)]
    probes = data.draw(st.integers(1, len(world.codec.centroids)))
    memory_bytes = data.draw(st.sampled_from([1, 1 << 20]))
    fast = TorchSearcher(world.codec, world.segments, "cpu", memory_bytes=memory_bytes)
    slow = NumpySearcher(world.codec, world.segments)
    # Nothing is left out between stages: there rounding would decide among equals.
    effort = Effort(probes, len(lengths), len(lengths), data.draw(st.sampled_from([0, 40])))
    for query, found in zip(queries, fast.search_many(queries, effort, None)):
        assert_same(found, slow.search(query, effort, None))


def test_exact_scores_are_those_of_the_oracle(device: str) -> None:
    generator = np.random.default_rng(0)
    lengths = [3, 0, 64, 65, 130, 1, 0]
    for width, dtype, tolerance in ((128, "f4", 2e-4), (96, "f2", 2e-4), (13, "f2", 2e-4)):
        documents = [generator.standard_normal((each, width)).astype(dtype) for each in lengths]
        queries = [
            generator.standard_normal((each, width)).astype("f4") for each in (32, 1, 70, 33)
        ]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        expected = maxsim(queries, documents)
        for memory_bytes in (1, 1 << 30):
            engine = ExactMaxSim(
                np.concatenate(documents), offsets, device, memory_bytes=memory_bytes
            )
            scores = engine.scores(queries).cpu().numpy()
            # Scores of several hundred, whose float32 has steps of 6e-5.
            np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=tolerance)
            positions, best = engine.search(queries, 3)
            assert positions.tolist() == np.argsort(-expected, axis=1)[:, :3].tolist()
            np.testing.assert_allclose(best, -np.sort(-expected)[:, :3], rtol=1e-5)


def test_offsets_and_widths_that_do_not_fit_are_refused() -> None:
    tokens = np.ones((4, 8), np.float32)
    with pytest.raises(ShapeError, match="expected 5 tokens"):
        ExactMaxSim(tokens, np.array([0, 5]), "cpu")
    with pytest.raises(ShapeError, match=r"expected queries \(tokens, 8\), got \(2, 9\)"):
        ExactMaxSim(tokens, np.array([0, 4]), "cpu").scores([np.ones((2, 9), np.float32)])


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    centroids = np.eye(3, dtype=np.float32)
    with pytest.raises(ConfigError, match="device is 'gpu', expected \"cuda\""):
        TorchCentroidSearch(centroids, "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        TorchCentroidSearch(centroids, "cuda:0")


@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
def test_nearest_centroids_are_those_of_a_full_comparison(memory_bytes: int) -> None:
    world = make_world(48, 4, [400] * 10, centroids=1500)
    centroids = world.codec.centroids
    scales = np.random.default_rng(0).uniform(1e-3, 1e3, (4000, 1)).astype(np.float32)
    search = TorchCentroidSearch(centroids, "cpu", memory_bytes=memory_bytes)
    codes = search.nearest(world.tokens * scales)
    products = world.tokens @ centroids.T
    taken = np.take_along_axis(products, codes[:, None], axis=1)[:, 0]
    # Of two that are equal within rounding either one is taken.
    np.testing.assert_allclose(taken, products.max(axis=1), atol=1e-6)
    assert len(search.nearest(world.tokens[:0])) == 0


def test_float16_products_find_centroids_that_are_nearly_the_nearest() -> None:
    world = make_world(48, 4, [400] * 5, centroids=500)
    centroids = world.codec.centroids
    codes = TorchCentroidSearch(centroids, "cpu", dtype=torch.float16).nearest(world.tokens * 1e-4)
    products = world.tokens @ centroids.T
    taken = np.take_along_axis(products, codes[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(taken, products.max(axis=1), atol=2e-3)


def test_kmeans_on_a_device_serves_tokens_as_well(device: str) -> None:
    world = make_world(64, 4, [400] * 10)
    means = []
    for search in (CentroidSearch, lambda each: TorchCentroidSearch(each, device)):
        centroids = fit_centroids(world.tokens, 256, iterations=3, seed=0, search=search)
        means.append((world.tokens @ centroids.T).max(axis=1).mean())
    assert means[1] == pytest.approx(means[0], rel=2e-3)


def documents_of(world: PlaidWorld) -> list[Vectors]:
    return list(np.split(world.tokens, world.offsets[1:-1]))


def build(cls: type[PlaidIndex], folder: Path, documents: list[Vectors], **given: Any) -> Any:
    batch: Batch[Sequence[Vectors]] = Batch([f"d{at}" for at in range(len(documents))], documents)
    return cls.build(folder, [batch], settings=PlaidSettings(engine="numpy", **given))


def assert_same_hits(found: list[list[Hit]], expected: list[list[Hit]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [hit.document_id for hit in one] == [hit.document_id for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-3)


@pytest.mark.parametrize("keep_tokens", [False, True])
def test_an_index_on_a_device_answers_as_in_numpy(
    device: str, tmp_path: Path, keep_tokens: bool
) -> None:
    world = make_world(64, 4, lengths_of(400, 3))
    documents = documents_of(world)
    index = build(
        PlaidIndex,
        tmp_path / "index",
        documents,
        keep_tokens=keep_tokens,
        probes=4,
        candidates=60,
        scored=30,
    )
    queries = [*queries_of(world, (32, 40)), np.empty((0, 64), np.float32)]
    on_device = TorchPlaidIndex.open(tmp_path / "index").to(device)
    assert_same_hits(on_device.search(queries, 10), index.search(queries, 10))
    assert on_device.search(queries, 10)[2] == []
    # So few that all are scored; many, so that probes are added until all are met.
    few, many = [f"d{at}" for at in range(0, 400, 20)], [f"d{at}" for at in range(1, 400, 5)]
    for k, allowed in ((10, few), (70, many), (5, ["d1"])):
        found = on_device.search(queries, k, allowed=allowed)
        assert_same_hits(found, index.search(queries, k, allowed=allowed))
        filled = [each for each in allowed if len(documents[int(each[1:])])]
        assert len(found[0]) == min(k, len(filled))


def test_an_index_that_is_built_on_a_device_is_any_plaid_index(device: str, tmp_path: Path) -> None:
    world = make_world(64, 4, lengths_of(300, 4, 1))
    documents = documents_of(world)
    index = build(TorchPlaidIndex, tmp_path / "index", documents, keep_tokens=True).to(device)
    queries = queries_of(world)
    expected = maxsim(queries, documents)
    best = np.argsort(-expected, axis=1)[:, :3]
    found = index.search(queries, 3)
    for hits, positions, scores in zip(found, best, expected):
        assert [hit.document_id for hit in hits] == [f"d{at}" for at in positions]
        # Tokens were kept in float16.
        assert [hit.score for hit in hits] == pytest.approx(scores[positions], abs=0.05)
    index.close()
    opened = open_index(tmp_path / "index", writable=True)
    assert type(opened) is PlaidIndex
    assert_same_hits(opened.search(queries, 3), found)


def test_changes_are_searched_at_once(device: str, tmp_path: Path) -> None:
    world = make_world(64, 4, lengths_of(120, 5, 1))
    documents = documents_of(world)
    index = build(TorchPlaidIndex, tmp_path / "index", documents[:100]).to(device)
    queries = queries_of(world)
    before = index.search(queries, 1)
    index.delete([before[0][0].document_id])
    index.add([f"d{at}" for at in range(100, 120)], documents[100:])
    index.save()
    live = [at for at in range(120) if f"d{at}" != before[0][0].document_id]
    found = index.search(queries, len(live))
    assert {hit.document_id for hit in found[0]} == {f"d{at}" for at in live}
    in_numpy = PlaidIndex.open(tmp_path / "index")
    for one, other in zip(found, in_numpy.search(queries, len(live))):
        assert dict(one) == pytest.approx(dict(other), abs=1e-3)


def test_an_index_on_a_device_can_be_calibrated(tmp_path: Path) -> None:
    world = make_world(64, 4, lengths_of(300, 6, 1))
    build(PlaidIndex, tmp_path / "index", documents_of(world)).close()
    queries = [world.query(16, seed) for seed in range(8)]
    calibrated = [
        cls.open(tmp_path / "index").calibrate(queries, k=5, recall=0.9)
        for cls in (PlaidIndex, TorchPlaidIndex)
    ]
    assert calibrated[0] == calibrated[1]
    assert isinstance(calibrated[0].probes, int)
