"""The compiled search and build against NumPy, for every instruction set of this processor."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import native
from retrieval.errors import ConfigError, EmbeddingError
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.kmeans import CentroidSearch, fit_centroids
from retrieval.indexing.plaid.native_build import NativeCentroidSearch, encode
from retrieval.indexing.plaid.native_search import NativeSearcher, Stages
from retrieval.indexing.plaid.numpy_search import Effort, NumpySearcher
from retrieval.indexing.plaid.searcher import engine_name
from retrieval.indexing.plaid.segment import make_segment
from tests.indexing.plaid.plaid_worlds import ROUNDINGS, PlaidWorld, Rounding, cases, make_world

pytestmark = pytest.mark.skipif(native.library() is None, reason="no compiled library")

WIDTHS = (8, 48, 64, 96, 128, 256)
QUERY_LENGTHS = (1, 15, 16, 31, 32, 33, 70)


def tolerance(world: PlaidWorld, tokens: int) -> float:
    """Of a score: query, centroid and residual are rounded to bytes.

    Few components are large ones, whose rounding steps are larger too. So are those of principal
    directions, some of which are much longer than others.
    """
    steps = 0.06 if world.codec.principal is None else 0.09
    return steps * math.sqrt(tokens / world.codec.width) + 0.002


@pytest.mark.parametrize(("width", "rounding"), cases(WIDTHS))
def test_scores_are_those_of_numpy(instruction_set: str, width: int, rounding: Rounding) -> None:
    lengths = np.random.default_rng(width).integers(1, 40, 90).tolist()
    world = make_world(width, rounding, lengths, cuts=(50, 51))
    slow = NumpySearcher(world.codec, world.segments)
    fast = NativeSearcher(world.codec, world.segments)
    everything = np.arange(len(lengths))
    for count in QUERY_LENGTHS:
        query = world.query(count, seed=count, is_unit=False)
        for rescored, margin in ((0, math.inf), (0, 0.2), (len(lengths), 0.2)):
            effort = Effort(1, 1, 1, rescored, margin)
            expected = np.empty(len(lengths))
            positions, scores = slow.rank(query, everything, effort)
            expected[positions] = scores
            positions, scores = fast.rank(query, everything, effort)
            assert sorted(positions) == everything.tolist()
            assert scores.tolist() == sorted(scores.tolist(), reverse=True)
            most = 1e-4 if rescored else 2 * tolerance(world, count)
            differences = np.abs(scores - expected[positions])
            # At a margin's edge rounding decides whether a token is scored at all.
            assert np.mean(differences > most) <= (0.05 if margin < 1 and not rescored else 0)


def test_a_whole_search_ranks_everything_like_numpy(instruction_set: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 300).tolist()
    world = make_world(64, 4, lengths, cuts=(100, 220, 221))
    slow = NumpySearcher(world.codec, world.segments)
    fast = NativeSearcher(world.codec, world.segments)
    whole = Effort(probes=64, candidates=300, scored=300, rescored=0)
    for count in QUERY_LENGTHS:
        query = world.query(count, seed=count)
        expected = dict(zip(*slow.search(query, whole, None)))
        positions, scores = fast.search(query, whole, None)
        assert set(positions.tolist()) == set(expected)
        wanted = [expected[each] for each in positions]
        assert scores == pytest.approx(wanted, abs=2 * tolerance(world, count))


@pytest.mark.parametrize("tokens", [5, 4096])
def test_a_search_scores_what_it_ranks_like_ranking(instruction_set: str, tokens: int) -> None:
    # A search keeps the best centroids of its candidates, unless that takes more than 8 MB.
    lengths = np.random.default_rng(0).integers(1, 4, 1100).tolist()
    world = make_world(16, 4, lengths, cuts=(700,), centroids=64)
    fast = NativeSearcher(world.codec, world.segments)
    # However many they are, five kinds of them: documents have tokens that are near to none.
    query = np.tile(world.query(5, seed=3), (-(-tokens // 5), 1))[:tokens]
    effort = Effort(probes=64, candidates=1100, scored=1050, rescored=0, margin=0.05)
    positions, scores = fast.search(query, effort, None)
    assert len(positions) == 1050
    again, expected = fast.rank(query, np.sort(positions), effort)
    assert np.array_equal(positions, again)
    assert np.array_equal(scores, expected)


@pytest.mark.parametrize("margin", [0.15, math.inf])
def test_every_part_of_a_long_document_is_scored(instruction_set: str, margin: float) -> None:
    # Tokens are listed 8,192 at a time.
    lengths = [20_000, 5, 8_192, 8_193, 3]
    world = make_world(16, 4, lengths, cuts=(3,))
    slow = NumpySearcher(world.codec, world.segments)
    fast = NativeSearcher(world.codec, world.segments)
    last = world.tokens[world.offsets[1] - 3 : world.offsets[1]]
    for query in (world.query(5, seed=0), last, world.tokens[14_000:14_001]):
        effort = Effort(1, 1, 1, 0, margin)
        expected = dict(zip(*slow.rank(query, np.arange(5), effort)))
        positions, scores = fast.rank(query, np.arange(5), effort)
        wanted = [expected[each] for each in positions]
        assert scores == pytest.approx(wanted, abs=2 * tolerance(world, len(query)))


@pytest.mark.parametrize("probes", [2, 3, 16])
def test_stages_pass_on_what_those_of_numpy_pass_on(instruction_set: str, probes: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 40, 400).tolist()
    world = make_world(64, 4, lengths, cuts=(150,), centroids=512)
    slow = NumpySearcher(world.codec, world.segments)
    fast = NativeSearcher(world.codec, world.segments)
    found = wanted = 0
    for seed in range(20):
        query = world.query(32, seed)
        effort = Effort(probes=probes, candidates=120, scored=40, rescored=0)
        expected = set(slow.search(query, effort, None)[0].tolist())
        positions, _ = fast.search(query, effort, None)
        assert len(positions) == 40
        found += len(expected & set(positions.tolist()))
        wanted += len(expected)
    # At the edge of a stage rounding decides.
    assert found >= 0.93 * wanted


@pytest.fixture(scope="module")
def cut_worlds() -> list[PlaidWorld]:
    """The same documents in one segment and in three."""
    lengths = np.random.default_rng(5).integers(0, 2, 140_000).tolist()
    return [
        make_world(16, 4, lengths, cuts=cuts, centroids=200) for cuts in ((), (60_000, 120_001))
    ]


def test_documents_are_met_wherever_segments_end(
    instruction_set: str, cut_worlds: list[PlaidWorld]
) -> None:
    # Gains are added up for 65,536 documents at a time.
    one, many = cut_worlds
    for seed in range(3):
        query = one.query(5, seed)
        for effort in (Effort(12, 3000, 2000, 0), Effort(3, 10**6, 10**6, 0)):
            expected = NativeSearcher(many.codec, many.segments).search(query, effort, None)
            found = NativeSearcher(one.codec, one.segments).search(query, effort, None)
            assert len(found[0]) > 100
            assert np.array_equal(found[0], expected[0])
            assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize(("wanted", "most"), [(10, 500), (10, 10_000), (100, 10_000)])
@pytest.mark.parametrize("patience", [4.0, 16.0])
def test_patience_ends_where_it_ends_in_numpy(
    instruction_set: str, patience: float, wanted: int, most: int
) -> None:
    lengths = np.random.default_rng(4).integers(1, 40, 600).tolist()
    world = make_world(64, 4, lengths, cuts=(150,), centroids=512)
    slow = NumpySearcher(world.codec, world.segments)
    fast = NativeSearcher(world.codec, world.segments)
    counts = []
    for seed in range(20):
        query = world.query(32, seed)
        effort = Effort(16, 600, most, 0, math.inf, wanted, patience)
        expected, _ = slow.search(query, effort, None)
        positions, _ = fast.search(query, effort, None)
        counts.append((len(expected), len(positions)))
        alike = set(expected[:wanted].tolist()) & set(positions[:wanted].tolist())
        assert len(alike) >= 0.9 * wanted
    scored = np.array(counts)
    # Neither as soon as they may nor at the last: what they ask decides.
    assert scored.min() < 500
    assert scored.max() > max(32, wanted + 12)
    # Both ask after every sixteen documents; rounding moves a few ends by as many.
    assert np.mean(scored[:, 0] == scored[:, 1]) >= 0.8
    assert abs(scored[:, 0].mean() - scored[:, 1].mean()) <= 8


@pytest.mark.parametrize(("wanted", "first"), [(1, 32), (10, 32), (100, 112)])
def test_little_patience_ends_as_soon_as_it_may(
    instruction_set: str, wanted: int, first: int
) -> None:
    lengths = np.random.default_rng(4).integers(1, 40, 600).tolist()
    world = make_world(64, 4, lengths, cuts=(150,), centroids=512)
    effort = Effort(16, 600, 600, 0, math.inf, wanted, 0.5)
    for searcher in (NumpySearcher, NativeSearcher):
        found, _ = searcher(world.codec, world.segments).search(world.query(32, 0), effort, None)
        assert len(found) == first


def test_a_mask_is_kept(instruction_set: str) -> None:
    lengths = np.random.default_rng(2).integers(1, 40, 300).tolist()
    world = make_world(64, 4, lengths, cuts=(100,))
    fast = NativeSearcher(world.codec, world.segments)
    mask = np.arange(300) % 7 == 3
    query = world.query(32, 0)
    effort = Effort(probes=64, candidates=300, scored=300, rescored=0)
    everywhere = dict(zip(*fast.search(query, effort, None)))
    positions, scores = fast.search(query, effort, mask)
    assert set(positions.tolist()) == set(np.flatnonzero(mask).tolist())
    assert scores == pytest.approx([everywhere[each] for each in positions], abs=1e-6)


def test_what_a_thread_keeps_does_not_reach_its_next_search(instruction_set: str) -> None:
    worlds = [make_world(64, 4, [9] * count, cuts=(3,), centroids=64) for count in (400, 7, 150)]
    searchers = [NativeSearcher(world.codec, world.segments) for world in worlds]
    effort = Effort(probes=4, candidates=20, scored=10, rescored=0)

    def ask(number: int) -> list[tuple[int, float]]:
        query = worlds[number].query(33 - number, seed=number)
        mask = np.arange(len(worlds[number].offsets) - 1) % 2 == 0 if number == 2 else None
        return list(zip(*(each.tolist() for each in searchers[number].search(query, effort, mask))))

    expected = []
    for number in range(len(worlds)):
        with ThreadPoolExecutor(1) as fresh:
            expected.append(fresh.submit(ask, number).result())
    for number in (2, 0, 1, 0, 2, 2, 1):
        assert ask(number) == expected[number]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape_is_searched_without_harm(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from(WIDTHS))
    lengths = data.draw(st.lists(st.integers(0, 70), min_size=1, max_size=30))
    if not sum(lengths):
        lengths[0] = 1
    if data.draw(st.booleans()):
        lengths[-1] = 8192 // max(1, width // 64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=3)))
    rounding = data.draw(st.sampled_from([each for each in ROUNDINGS if each.takes(width)]))
    world = make_world(width, rounding, lengths, cuts, centroids=data.draw(st.integers(1, 40)))
    query = world.query(data.draw(st.integers(1, 70)), seed=1)
    probes = data.draw(st.integers(1, len(world.codec.centroids)))
    scored = data.draw(st.integers(1, 40))
    effort = Effort(probes, 40, scored, data.draw(st.integers(0, 40)))
    positions, scores = NativeSearcher(world.codec, world.segments).search(query, effort, None)
    assert len(set(positions.tolist())) == len(positions) <= scored
    filled = np.flatnonzero(lengths)
    assert np.isin(positions, filled).all()
    assert np.isfinite(scores).all()
    if probes == len(world.codec.centroids):
        assert len(positions) == min(scored, effort.rescored or scored, len(filled))


def test_searches_say_what_they_did() -> None:
    lengths = np.random.default_rng(3).integers(1, 40, 200).tolist()
    world = make_world(64, 4, lengths)
    stages = Stages()
    fast = NativeSearcher(world.codec, world.segments)
    for seed in range(2):
        fast.search(world.query(8, seed), Effort(64, 100, 50, 20), None, stages)
    assert (stages.touched, stages.scored, stages.rescored) == (400, 100, 40)
    assert all(stages.nanoseconds)


@pytest.mark.parametrize("count", [1, 700, 3000])
def test_nearest_centroids_are_nearly_those_of_numpy(instruction_set: str, count: int) -> None:
    world = make_world(64, 4, [400] * 10, centroids=count)
    tokens = world.tokens
    codes = NativeCentroidSearch(world.codec.centroids).nearest(tokens)
    similarities = (tokens * world.codec.centroids[codes]).sum(axis=1)
    best = (tokens @ world.codec.centroids.T).max(axis=1)
    assert similarities.mean() > 0.999 * best.mean()
    assert codes.min() >= 0
    assert codes.max() < count


def test_threads_change_no_code() -> None:
    world = make_world(48, 4, [400] * 100, centroids=200)
    centroids = world.codec.centroids
    one = NativeCentroidSearch(centroids, threads=1).nearest(world.tokens)
    assert np.array_equal(one, NativeCentroidSearch(centroids, threads=3).nearest(world.tokens))


def test_lengths_of_tokens_change_no_code(instruction_set: str) -> None:
    world = make_world(64, 4, [50] * 4)
    search = NativeCentroidSearch(world.codec.centroids)
    powers = 2.0 ** np.random.default_rng(0).integers(-8, 8, (200, 1))
    longer = (world.tokens * powers).astype(np.float32)
    assert np.array_equal(search.nearest(world.tokens), search.nearest(longer))


@pytest.mark.parametrize(("width", "rounding"), cases(WIDTHS))
def test_residuals_are_encoded_as_numpy_does(
    instruction_set: str, width: int, rounding: Rounding
) -> None:
    world = make_world(width, rounding, [100] * 3)
    codes = CentroidSearch(world.codec.centroids).nearest(world.tokens)
    lengths = np.random.default_rng(0).uniform(0, 3, (300, 1)).astype(np.float32)
    lengths[7] = 0
    tokens = world.tokens * lengths
    expected, found = world.codec.encode(tokens, codes), encode(world.codec, tokens, codes)
    assert np.array_equal(found.codes, expected.codes)
    assert found.codes.dtype == expected.codes.dtype
    # A residual in the middle between two values may be rounded either way.
    are_equal = found.residuals == expected.residuals
    assert np.mean(are_equal) > 0.999
    # Along principal directions such a residual changes the length of what is rebuilt, too.
    same = are_equal.all(axis=1) | (world.codec.principal is None)
    assert same.mean() > 0.9
    wanted = expected.scales.astype("f4")[same]
    assert found.scales.astype("f4")[same] == pytest.approx(wanted, rel=2e-3)
    assert found.scales[7] == 0


def test_overlong_tokens_are_refused() -> None:
    world = make_world(64, 4, [10])
    with pytest.raises(EmbeddingError, match="at most 8,192"):
        encode(world.codec, world.tokens * np.float32(1e4), np.zeros(10, np.int64))


def test_the_engine_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_name("auto", 128) == engine_name("native", 128) == "native"
    assert engine_name("numpy", 128) == engine_name("auto", 13) == "numpy"
    with pytest.raises(ConfigError, match="multiple of 8, not 13"):
        engine_name("native", 13)
    monkeypatch.setattr(native, "library", lambda: None)
    assert engine_name("auto", 128) == "numpy"
    with pytest.raises(ConfigError, match="no compiled library"):
        engine_name("native", 128)


def test_kmeans_through_the_library_serves_tokens_as_well() -> None:
    world = make_world(64, 4, [400] * 20)
    means = []
    for search in (CentroidSearch, NativeCentroidSearch):
        centroids = fit_centroids(world.tokens, 256, iterations=3, seed=0, search=search)
        codes = CentroidSearch(centroids).nearest(world.tokens)
        means.append((world.tokens * centroids[codes]).sum(axis=1).mean())
    assert means[1] == pytest.approx(means[0], rel=2e-3)
    assert isinstance(world.codec, ResidualCodec)


def test_more_probes_than_16_bits_count_are_all_looked_at() -> None:
    # Each document has one token, at a centroid of its own.
    count = 40_000
    units = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    codec = ResidualCodec(
        centroids=units.astype(np.float16).astype(np.float32),
        values=np.linspace(-0.1, 0.1, 16, dtype=np.float32),
        spread=0.05,
    )
    codes = np.arange(count)
    segment = make_segment([1] * count, codec.encode(units, codes))
    fast = NativeSearcher(codec, [segment])
    for probes in (30_000, 36_000, count):
        effort = Effort(probes, count, count, 0)
        positions, _ = fast.search(units[:1], effort, None)
        assert len(positions) == probes
        best = np.argsort(-(codec.centroids @ units[0]))[: probes - 200]
        assert np.isin(best, positions).mean() > 0.999
