"""The compiled MaxSim against the oracle, for every instruction set of this processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval import native
from retrieval.indexing.native_maxsim import is_supported, maxsim_bounds, maxsim_of_runs
from retrieval.indexing.rounded_tokens import round_tokens
from retrieval.scoring import maxsim

pytestmark = pytest.mark.skipif(native.library() is None, reason="no compiled library")

WIDTHS = (8, 48, 64, 96, 128, 256)
QUERY_LENGTHS = (1, 16, 31, 32, 33, 70)
LENGTHS = (3, 0, 1, 2, 4, 5, 7, 8, 9, 12, 13, 16, 17, 100, 0, 31)


def unit_rows(generator: np.random.Generator, count: int, width: int) -> NDArray[np.float32]:
    rows = generator.standard_normal((count, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def bounds_of(lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ends = np.cumsum(lengths).astype(np.int64)
    return ends - lengths, ends


def split(rows: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
    starts, ends = bounds_of(lengths)
    return [rows[start:end] for start, end in zip(starts, ends)]


def to_bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = rows.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(rows: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (rows.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("width", WIDTHS)
def test_scores_are_those_of_the_oracle(instruction_set: str, width: int, dtype: Any) -> None:
    generator = np.random.default_rng(width)
    rows = unit_rows(generator, sum(LENGTHS), width).astype(dtype)
    for count in QUERY_LENGTHS:
        query = unit_rows(generator, count, width)
        expected = maxsim([query], split(rows, LENGTHS))[0]
        scores = maxsim_of_runs(query, rows, *bounds_of(LENGTHS))
        # Sums of up to 256 products and 70 maxima, in another order.
        np.testing.assert_allclose(scores, expected, atol=2e-6 * count + 1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_bfloat16_rounds_the_query_too(instruction_set: str, width: int) -> None:
    generator = np.random.default_rng(width)
    rows = to_bfloat16(unit_rows(generator, sum(LENGTHS), width))
    items = split(from_bfloat16(rows), LENGTHS)
    for count in QUERY_LENGTHS:
        query = unit_rows(generator, count, width)
        expected = maxsim([from_bfloat16(to_bfloat16(query))], items)[0]
        scores = maxsim_of_runs(query, rows, *bounds_of(LENGTHS))
        np.testing.assert_allclose(scores, expected, atol=4e-6 * count + 1e-6)


def test_a_best_match_below_zero_stays_below_zero(instruction_set: str) -> None:
    rows = -np.abs(np.random.default_rng(0).standard_normal((20, 16))).astype(np.float32)
    query = np.abs(np.random.default_rng(1).standard_normal((3, 16))).astype(np.float32)
    expected = maxsim([query], split(rows, [1, 19]))[0]
    assert (expected < 0).all()
    assert maxsim_of_runs(query, rows, *bounds_of([1, 19])) == pytest.approx(expected, rel=1e-5)
    assert (maxsim_bounds(query, round_tokens(rows), *bounds_of([1, 19])) < 0).all()


def test_a_long_document_is_scored_whole(instruction_set: str) -> None:
    generator = np.random.default_rng(0)
    rows = unit_rows(generator, 8192 + 3, 64)
    query = rows[[8191, 0, 4097]]
    scores = maxsim_of_runs(query, rows, *bounds_of([8192, 3]))
    expected = maxsim([query], split(rows, [8192, 3]))[0]
    assert scores == pytest.approx(expected, rel=1e-5)
    assert scores[0] == pytest.approx(3, rel=1e-5)


def test_documents_may_come_in_any_order_and_twice(instruction_set: str) -> None:
    generator = np.random.default_rng(0)
    rows, query = unit_rows(generator, 60, 48), unit_rows(generator, 5, 48)
    starts, ends = bounds_of([10, 20, 30])
    scores = maxsim_of_runs(query, rows, starts, ends)
    chosen = np.array([2, 0, 2])
    again = maxsim_of_runs(query, rows, starts[chosen], ends[chosen])
    assert again.tolist() == scores[chosen].tolist()


def test_threads_change_no_score() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 400, 500).tolist()
    rows = unit_rows(generator, sum(lengths), 64).astype(np.float16)
    query = unit_rows(generator, 32, 64)
    rounded = round_tokens(rows)
    one, many = (
        [
            maxsim_of_runs(query, rows, *bounds_of(lengths), threads),
            maxsim_bounds(query, rounded, *bounds_of(lengths), threads),
        ]
        for threads in (1, 3)
    )
    assert np.array_equal(one, many)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from(WIDTHS),
    count=st.integers(1, 40),
    shape=st.sampled_from(["unit", "few large components", "any length", "a grid", "zeros"]),
    dtype=st.sampled_from([np.float32, np.float16]),
)
@settings(max_examples=150, deadline=None)
def test_no_score_exceeds_its_bound(
    seed: int, width: int, count: int, shape: str, dtype: Any
) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 30, 12).tolist()
    tokens = unit_rows(generator, sum(lengths) + count, width)
    if shape == "few large components":
        tokens *= generator.choice([1, 1, 1, 1, 30], tokens.shape).astype(np.float32)
    elif shape == "any length":
        tokens *= (10 ** generator.uniform(-25, 3, (len(tokens), 1))).astype(np.float32)
    elif shape == "a grid":
        # Rounding takes nothing away: scores and bounds all but meet.
        tokens = generator.integers(-127, 128, tokens.shape).astype(np.float32)
        tokens[:, 0] = 127
    elif shape == "zeros":
        tokens[generator.random(len(tokens)) < 0.5] = 0
    rows, query = tokens[count:].astype(dtype), tokens[:count]
    rounded = round_tokens(rows)
    before = native.instruction_set()
    assert before is not None
    try:
        for name in native.instruction_sets():
            native.choose_instruction_set(name)
            scores = maxsim_of_runs(query, rows, *bounds_of(lengths))
            bounds = maxsim_bounds(query, rounded, *bounds_of(lengths))
            assert (bounds >= scores).all()
            exact = maxsim([query.astype(np.float64)], split(rows.astype(np.float64), lengths))[0]
            assert (bounds >= exact).all()
    finally:
        native.choose_instruction_set(before)


def test_bounds_are_near(instruction_set: str) -> None:
    generator = np.random.default_rng(0)
    rows, query = unit_rows(generator, 4000, 128), unit_rows(generator, 32, 128)
    starts, ends = bounds_of([100] * 40)
    excess = maxsim_bounds(query, round_tokens(rows), starts, ends) - maxsim_of_runs(
        query, rows, starts, ends
    )
    # Of 32: two roundings of 0.007 for each query token, twice that without VNNI.
    assert excess.min() > 0
    assert excess.max() < 1


def test_what_rounding_takes_away_is_known() -> None:
    tokens = np.random.default_rng(0).standard_normal((300, 48)).astype(np.float32)
    tokens[5] = 0
    rounded = round_tokens(tokens)
    values = (rounded.codes.astype(np.float64) - 128) * rounded.scales[:, None].astype(np.float64)
    taken, left = np.linalg.norm(tokens - values, axis=1), np.linalg.norm(values, axis=1)
    assert (rounded.errors >= taken).all()
    assert (rounded.sizes >= left).all()
    assert rounded.errors == pytest.approx(taken, rel=1e-3, abs=1e-6)
    assert rounded.sizes == pytest.approx(left, rel=1e-4, abs=1e-30)
    assert np.abs(tokens - values).max() <= 0.501 * rounded.scales.max()


def test_other_widths_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_supported(width) for width in (8, 128, 12, 4)] == [True, True, False, False]
    monkeypatch.setattr(native, "library", lambda: None)
    assert not is_supported(128)
