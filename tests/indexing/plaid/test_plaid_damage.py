"""Wrong numbers in what a search reads, and sizes at its limits: an error or an answer, no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import native
from retrieval.errors import IndexFilesError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.plaid.codec_file import read_codec, save_codec
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import Effort, NumpySearcher
from retrieval.indexing.plaid.searcher import Engine, make_searcher
from retrieval.indexing.plaid.segment import Segment
from retrieval.indexing.versions import current_version
from tests.indexing.damage import sign
from tests.indexing.plaid.fuzz import random_world, search_damaged
from tests.indexing.plaid.plaid_worlds import PlaidWorld, Rounding, make_world

compiled = pytest.mark.skipif(native.library() is None, reason="no compiled library")

EVERYTHING = Effort(probes=64, candidates=300, scored=300, rescored=0)


@pytest.fixture(scope="module")
def world() -> PlaidWorld:
    lengths = np.random.default_rng(0).integers(1, 40, 300).tolist()
    return make_world(64, 4, lengths, cuts=(200,))


def harmed(world: PlaidWorld, name: str, at: int, value: int) -> list[Segment]:
    """The world's segments, one number of the first one replaced."""
    arrays = {each: np.array(array) for each, array in world.segments[0].arrays().items()}
    arrays[name][at] = value
    return [Segment.from_arrays(arrays), world.segments[1]]


@compiled
@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_no_wrong_number_does_harm(instruction_set: str, seed: int) -> None:
    world = random_world(seed)
    found = [search_damaged(world, each) for each in range(seed, seed + 20)]
    assert set(found) <= {"found", "damaged"}


@compiled
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("list_documents", 200),  # there are as many in the segment, and more in the index
        ("list_documents", -1),
        ("list_documents", 2**31 - 1),
        ("offsets", -8),
        ("offsets", 2**62),
        ("list_starts", -8),
        ("list_starts", 2**62),
    ],
)
def test_a_search_that_meets_a_wrong_number_says_so(
    instruction_set: str, world: PlaidWorld, name: str, value: int
) -> None:
    segments = harmed(world, name, 5, value)
    searcher = NativeSearcher(world.codec, segments)
    for seed in range(2):
        with pytest.raises(IndexFilesError, match="retrieval verify"):
            searcher.search(world.query(32, seed), EVERYTHING, None)
    if name == "offsets":
        with pytest.raises(IndexFilesError, match="retrieval verify"):
            searcher.rank(world.query(32, 0), np.arange(300), EVERYTHING)
    # The next search on this thread is not taken for a damaged one.
    positions, _ = NativeSearcher(world.codec, world.segments).search(
        world.query(32, 0), EVERYTHING, None
    )
    assert len(positions) == 300


@compiled
def test_a_code_without_a_centroid_scores_like_some_centroid(
    instruction_set: str, world: PlaidWorld
) -> None:
    document = int(world.segments[0].offsets[7])
    query = world.query(32, 0)
    _, scores = NativeSearcher(world.codec, harmed(world, "codes", document, 65_535)).rank(
        query, np.array([7]), EVERYTHING
    )
    last = NativeSearcher(world.codec, harmed(world, "codes", document, 63))
    assert scores.tolist() == last.rank(query, np.array([7]), EVERYTHING)[1].tolist()


@pytest.mark.parametrize("engine", ["numpy", pytest.param("native", marks=compiled)])
@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("offsets", 5, 2**62, "offsets that do not ascend"),
        ("offsets", 0, -1, "offsets that do not ascend"),
        ("list_starts", 5, 0, "offsets that do not ascend"),
        ("list_centroids", -1, 64, "list_centroids outside 0 to 63"),
        ("list_centroids", 0, -1, "list_centroids outside 0 to 63"),
        ("list_centroids", 5, 0, "centroids of lists out of order"),
    ],
)
def test_bounds_are_checked_before_the_first_search(
    world: PlaidWorld, engine: Engine, name: str, at: int, value: int, message: str
) -> None:
    with pytest.raises(IndexFilesError, match=message):
        make_searcher(world.codec, harmed(world, name, at, value), engine)


@pytest.mark.parametrize(
    ("name", "value"), [("codes", 64), ("list_documents", 200), ("list_documents", -1)]
)
def test_numpy_says_so_too(world: PlaidWorld, name: str, value: int) -> None:
    searcher = NumpySearcher(world.codec, harmed(world, name, 5, value))
    with pytest.raises(IndexFilesError, match="retrieval verify"):
        searcher.search(world.query(32, 0), EVERYTHING, None)


@pytest.mark.parametrize("engine", ["numpy", pytest.param("native", marks=compiled)])
def test_an_index_with_a_wrong_number_says_so_when_it_is_searched(
    tmp_path: Path, world: PlaidWorld, engine: Engine
) -> None:
    documents = np.split(world.tokens, world.offsets[1:-1])
    ids = [str(number) for number in range(len(documents))]
    settings = PlaidSettings(engine=engine)
    PlaidIndex.build(tmp_path / "index", [Batch(ids, documents)], settings=settings).close()
    path = next(current_version(tmp_path / "index").glob("segment*"))
    arrays = {name: np.array(array) for name, array in map_arrays(path).items()}
    arrays["list_documents"][:] = 2**31 - 1
    path.unlink()
    save_arrays(path, arrays)
    sign(tmp_path / "index")
    opened = PlaidIndex.open(tmp_path / "index")
    opened.settings = PlaidSettings(engine=engine, scored=10, candidates=10)
    with pytest.raises(IndexFilesError, match="retrieval verify"):
        opened.search([world.query(32, 0)], 3)


@compiled
def test_documents_of_any_length_are_scored_as_by_numpy(instruction_set: str) -> None:
    """Runs of 8,192 tokens, and more tokens than a pair's 20 bits can tell apart."""
    world = make_world(8, 4, [50_000, 3, 8192, 8193])
    long = world.segments[0]
    times = 22
    scales = np.concatenate([long.scales] * times)
    # The best token is the last one.
    scales[-1] = 1.5
    endless = long._replace(
        offsets=np.array([0, len(scales)]),
        codes=np.concatenate([long.codes] * times),
        residuals=np.concatenate([long.residuals] * times),
        scales=scales,
    )
    query = world.query(5, 0)
    for segments in ([long], [endless]):
        everything = np.arange(segments[0].documents)
        effort = EVERYTHING._replace(margin=10.0)
        expected = np.empty(len(everything))
        positions, scores = NumpySearcher(world.codec, segments).rank(query, everything, effort)
        expected[positions] = scores
        positions, scores = NativeSearcher(world.codec, segments).rank(query, everything, effort)
        assert sorted(positions) == everything.tolist()
        # Of five tokens of 8 components: query, centroid and residual are rounded to bytes.
        assert scores == pytest.approx(expected[positions], abs=0.1)


@compiled
@pytest.mark.parametrize("count", [4095, 4096, 4097])
def test_queries_of_any_length_are_searched(world: PlaidWorld, count: int) -> None:
    query = world.query(count, 0)
    effort = EVERYTHING._replace(margin=10.0)
    expected = dict(zip(*NumpySearcher(world.codec, world.segments).search(query, effort, None)))
    positions, scores = NativeSearcher(world.codec, world.segments).search(query, effort, None)
    assert set(positions.tolist()) == set(expected)
    # Rounding evens out over so many tokens; above 4,096 it is NumPy that answers.
    wanted = [expected[each] for each in positions]
    assert scores == pytest.approx(wanted, abs=0 if count > 4096 else 0.002 * count)


@compiled
@pytest.mark.parametrize("size", [1e-40, 1e-36, 1e-20, 1e20, 1e37])
def test_queries_of_any_size_find_the_same(
    instruction_set: str, world: PlaidWorld, size: float
) -> None:
    searcher = NativeSearcher(world.codec, world.segments)
    # Fewer candidates than are met, so that they are chosen by the sizes of gains.
    effort = EVERYTHING._replace(probes=8, candidates=100, scored=20)
    query = world.query(1, 0)
    query[:, 8:] = 0
    expected = searcher.search(query, effort, None)[0].tolist()
    positions, scores = searcher.search((query * size).astype(np.float32), effort, None)
    assert not np.isnan(scores).any()
    assert len(set(positions.tolist())) == len(positions) == 20
    if 1e-38 < size < 1e29:
        assert len(set(positions.tolist()) & set(expected)) >= 18


@compiled
def test_an_effort_beyond_the_documents_is_all_of_them(world: PlaidWorld) -> None:
    searcher = NativeSearcher(world.codec, world.segments)
    query = world.query(32, 0)
    endless = Effort(probes=64, candidates=1 << 40, scored=1 << 40, rescored=1 << 40)
    positions, scores = searcher.search(query, endless, None)
    expected, wanted = searcher.search(query, EVERYTHING._replace(rescored=300), None)
    assert positions.tolist() == expected.tolist()
    assert scores.tolist() == wanted.tolist()


def _not_finite(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["centroids"][3, 3] = np.nan


def _too_large(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["values"][-1] = 1e30


def _descending(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["values"][:] = arrays["values"][::-1].copy()


def _uneven(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["values"][100] = arrays["values"][101]


def change_codec(path: Path, change: Callable[[dict[str, NDArray[Any]]], None]) -> None:
    """Write a codec's file anew with other arrays."""
    arrays = {name: np.array(array) for name, array in map_arrays(path).items()}
    change(arrays)
    path.unlink()
    save_arrays(path, arrays)


def _without_a_direction(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["directions"][5] = 0


def _not_finite_direction(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["directions"][5, 1] = np.nan


@pytest.mark.parametrize(
    ("rounding", "change"),
    [
        (Rounding(4), _not_finite),
        (Rounding(4), _too_large),
        (Rounding(4), _descending),
        (Rounding(8), _uneven),
        (Rounding(8), _descending),
        (Rounding(2, True), _not_finite),
        (Rounding(2, True), _descending),
        (Rounding(2, True), _without_a_direction),
        (Rounding(2, True), _not_finite_direction),
    ],
)
def test_a_codec_that_was_never_learned_is_refused(
    tmp_path: Path, rounding: Rounding, change: Callable[[dict[str, NDArray[Any]]], None]
) -> None:
    path = tmp_path / "codec.safetensors"
    codec = make_world(8, rounding, [100]).codec
    save_codec(path, codec, 0.5)
    assert np.array_equal(read_codec(path)[0].values, codec.values)
    change_codec(path, change)
    with pytest.raises(IndexFilesError, match="numbers that no codec has"):
        read_codec(path)


def _without_directions(arrays: dict[str, NDArray[Any]]) -> None:
    del arrays["directions"]


def _fewer_directions(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["directions"] = arrays["directions"][:-1]


def _values_of_another(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["values"] = arrays["values"][:16]


@pytest.mark.parametrize("change", [_without_directions, _fewer_directions, _values_of_another])
def test_a_codec_without_all_of_its_arrays_is_refused(
    tmp_path: Path, change: Callable[[dict[str, NDArray[Any]]], None]
) -> None:
    """The first is what a version that knows no directions would read."""
    path = tmp_path / "codec.safetensors"
    save_codec(path, make_world(16, Rounding(2, True), [100]).codec, 0.5)
    change_codec(path, change)
    with pytest.raises(IndexFilesError, match="not a codec"):
        read_codec(path)


def test_kept_tokens_that_are_no_numbers_do_no_harm(instruction_set: str) -> None:
    world = make_world(64, 4, [20] * 30)
    (segment,) = world.segments
    assert segment.tokens is not None
    damaged = segment._replace(tokens=segment.tokens.copy())
    assert damaged.tokens is not None
    damaged.tokens[:, 3] = np.nan
    everything = Effort(len(world.codec.centroids), 30, 30, 30)
    searcher, query = NativeSearcher(world.codec, [damaged]), world.query(8, 0)
    if instruction_set.startswith("avx512"):
        with pytest.raises(IndexFilesError, match="damaged"):
            searcher.search(query, everything, None)
    else:
        # The others widen float16 by its bits, which gives large numbers.
        _, scores = searcher.search(query, everything, None)
        assert np.isfinite(scores).all()
