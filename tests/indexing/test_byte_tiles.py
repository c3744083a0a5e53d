"""Bytes multiplied on AMX tiles, emulated, give what vectors of the same levels give."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from retrieval import native
from retrieval.indexing.native_maxsim import maxsim_bounds
from retrieval.indexing.plaid.native_build import NativeCentroidSearch
from retrieval.indexing.plaid.native_search import NativeSearcher
from retrieval.indexing.plaid.numpy_search import Effort
from retrieval.indexing.rounded_tokens import round_tokens
from tests.indexing.plaid.plaid_worlds import Rounding, cases, make_world
from tests.tiles import VECTORS_OF

pytestmark = pytest.mark.skipif(native.library() is None, reason="no compiled library")

# A tile is 64 bytes deep: less than one, some and a rest, some.
WIDTHS = (8, 48, 64, 96, 128, 256)
# Around one tile of columns and two.
QUERY_LENGTHS = (1, 15, 16, 17, 31, 32, 33, 70)


@pytest.mark.parametrize(("width", "rounding"), cases(WIDTHS))
def test_searches_are_those_of_vectors(emulated: str, width: int, rounding: Rounding) -> None:
    # Around half of a tile's rows, and a whole one's; 1,000 centroids leave half of a tile.
    lengths = [1, 7, 8, 9, 15, 16, 17, 24, 25, 33, 60] * 9
    world = make_world(width, rounding, lengths, cuts=(40, 41), centroids=1_000)
    searcher = NativeSearcher(world.codec, world.segments)
    for effort in (Effort(8, 60, 30, 0), Effort(8, 99, 99, 0, math.inf)):
        for count in QUERY_LENGTHS:
            query = world.query(count, seed=count, is_unit=False)
            native.choose_instruction_set(emulated)
            positions, scores = searcher.search(query, effort, None)
            native.choose_instruction_set(VECTORS_OF[emulated])
            expected_positions, expected_scores = searcher.search(query, effort, None)
            assert positions.tolist() == expected_positions.tolist()
            # Sums are integers, which are the same ones in any order.
            assert scores.tolist() == expected_scores.tolist()


@pytest.mark.parametrize("width", WIDTHS)
def test_codes_are_those_of_vectors(emulated: str, width: int) -> None:
    world = make_world(width, 4, [101] * 3, centroids=300)
    found = NativeCentroidSearch(world.codec.centroids).nearest(world.tokens)
    native.choose_instruction_set(VECTORS_OF[emulated])
    expected = NativeCentroidSearch(world.codec.centroids).nearest(world.tokens)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("width", WIDTHS)
def test_bounds_are_those_of_vectors(emulated: str, width: int) -> None:
    generator = np.random.default_rng(width)
    ends = np.cumsum([3, 0, 8, 9, 16, 17, 100]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    rounded = round_tokens(generator.standard_normal((ends[-1], width)).astype(np.float32))
    for count in QUERY_LENGTHS:
        query = generator.standard_normal((count, width)).astype(np.float32)
        native.choose_instruction_set(emulated)
        found = maxsim_bounds(query, rounded, starts, ends)
        native.choose_instruction_set(VECTORS_OF[emulated])
        expected = maxsim_bounds(query, rounded, starts, ends)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_library_tells_right_bounds_from_wrong_ones(emulated: str) -> None:
    library = native.library()
    assert library is not None

    def right(*arguments: int) -> None:
        native.choose_instruction_set(emulated)
        call(arguments)

    def reference(*arguments: int) -> None:
        native.choose_instruction_set(VECTORS_OF[emulated])
        call(arguments)

    def call(arguments: tuple[int, ...]) -> None:
        rounded, query, tokens, bounds = arguments
        library.retrieval_maxsim_bounds(
            ctypes.c_void_p(rounded), ctypes.c_void_p(query), tokens, ctypes.c_void_p(bounds)
        )

    def nothing(*_: int) -> None:
        pass

    def one_too_large(*arguments: int) -> None:
        right(*arguments)
        ctypes.c_float.from_address(arguments[3] + 4 * 2).value *= 1.001

    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_void_p)
    alike = library.retrieval_bounds_are_alike
    verdicts = [
        alike(function(each), function(reference)) for each in (right, nothing, one_too_large)
    ]
    assert verdicts == [1, 0, 0]
