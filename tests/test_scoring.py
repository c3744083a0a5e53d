"""The oracle itself, on numbers that can be checked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import ShapeError
from retrieval.scoring import cosine, dot, maxsim


def floats(rows: Any) -> Any:
    return np.array(rows, np.float32)


def test_dot_is_the_sum_of_products() -> None:
    scores = dot(floats([[1, 2], [0, -1]]), floats([[3, 4], [5, 6], [0, 0]]))
    assert scores.tolist() == [[11, 17, 0], [-4, -6, 0]]
    assert scores.dtype == np.float32


def test_float16_is_summed_in_float32() -> None:
    # 4,096 ones and one more: in float16, 2,048 + 1 is 2,048.
    ones = np.ones((1, 4097), np.float16)
    assert dot(ones, ones).tolist() == [[4097]]


def test_cosine_ignores_lengths_and_a_zero_vector_scores_zero() -> None:
    queries = floats([[3, 4], [0, 0]])
    documents = floats([[6, 8], [-3, -4], [4, -3], [0, 0]])
    expected = [[1, -1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(cosine(queries, documents), expected, atol=1e-6)


def test_cosine_of_tiny_and_huge_vectors_is_finite() -> None:
    # Their squares leave float32's range.
    scores = cosine(floats([[1e-30, 0], [1e30, 0]]), floats([[1e30, 1e30]]))
    np.testing.assert_allclose(scores, [[0.5**0.5], [0.5**0.5]], rtol=1e-6)


def test_maxsim_sums_each_query_tokens_best_match() -> None:
    query = floats([[1, 0], [0, 1]])
    document = floats([[0.5, 0.1], [0.25, 0.75], [0, 0]])
    assert maxsim([query], [document]).tolist() == [[1.25]]


def test_a_best_match_below_zero_stays_below_zero() -> None:
    query = floats([[1, 0], [0, 1]])
    assert maxsim([query], [floats([[-0.5, 0.25]])]).tolist() == [[-0.25]]
    assert maxsim([query], [floats([[-0.5, -0.25], [-0.75, -1]])]).tolist() == [[-0.75]]


def test_a_document_without_tokens_scores_below_every_other() -> None:
    empty = np.empty((0, 2), np.float32)
    scores = maxsim([floats([[1, 0]])], [empty, floats([[-100, 0]])])
    assert scores.tolist() == [[-np.inf, -100]]


def test_a_query_without_tokens_scores_every_document_alike() -> None:
    empty = np.empty((0, 2), np.float32)
    assert maxsim([empty], [floats([[1, 0]]), floats([[5, 5]])]).tolist() == [[0, 0]]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_order_of_tokens_and_repeated_document_tokens_change_nothing(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Whole numbers: sums are exact in any order.
    query = generator.integers(-9, 10, (4, 3)).astype(np.float32)
    document = generator.integers(-9, 10, (5, 3)).astype(np.float32)
    score = maxsim([query], [document])
    shuffled = generator.permutation(document)
    assert maxsim([query[::-1]], [shuffled]) == score
    assert maxsim([query], [np.concatenate([document, document[:2]])]) == score
    assert score == sum(max(float(q @ d) for d in document) for q in query)


def test_other_widths_and_dimensions_are_refused() -> None:
    two, three = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    with pytest.raises(ShapeError, match=r"\(1, 2\) and \(1, 3\)"):
        dot(two, three)
    with pytest.raises(ShapeError, match=r"\(2,\) and \(1, 2\)"):
        dot(two[0], two)
    with pytest.raises(ShapeError, match=r"\(1, 2\) and \(1, 3\)"):
        cosine(two, three)
    with pytest.raises(ShapeError, match=r"\(1, 2\) and \(1, 3\)"):
        maxsim([two], [three])
