"""What each number format on disk costs in precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.encoders.stored_vectors import StoredDtype, from_stored, to_stored
from retrieval.errors import EmbeddingError


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """1,000 unit vectors of 128 components, one of zeros, one of large and small values."""
    rows = np.random.default_rng(0).normal(size=(1_000, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[7] = 0
    rows[8] = np.linspace(-3e4, 3e4, 128)
    return rows


@pytest.mark.parametrize(
    ("dtype", "most", "size"),
    # of 1 - cosine: half a unit in the last of 11, 8 and 7 bits, squared and averaged
    [("float32", 0, 4), ("float16", 1e-6, 2), ("bfloat16", 1e-5, 2), ("int8", 2e-4, 1)],
)
def test_vectors_keep_their_direction(
    vectors: np.ndarray, dtype: StoredDtype, most: float, size: int
) -> None:
    arrays = to_stored(vectors, dtype)
    assert arrays["vectors"].itemsize == size
    back = from_stored(arrays, dtype).astype(np.float64)
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(back, axis=1)
    cosines = (exact * back).sum(1)[lengths > 0] / lengths[lengths > 0]
    assert (lengths > 0).sum() == 999
    assert 1 - cosines.min() <= max(most, 1e-15)
    assert not back[7].any()


def test_bfloat16_is_rounded_as_torch_rounds(vectors: np.ndarray) -> None:
    ties = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1e-40, 0.0]], np.float32)
    for rows in (vectors, ties):
        expected = torch.from_numpy(rows).bfloat16().float().numpy()
        back = from_stored(to_stored(rows, "bfloat16"), "bfloat16")
        np.testing.assert_array_equal(back, expected)
        assert back.dtype == np.float32


def test_int8_uses_all_of_its_range_for_every_vector(vectors: np.ndarray) -> None:
    codes = to_stored(vectors, "int8")["vectors"].astype(int)
    assert set(np.abs(codes).max(axis=1)) == {0, 127}
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    error = np.abs(from_stored(to_stored(vectors, "int8"), "int8") - vectors)
    assert (error <= largest / 127 / 2 * 1.001).all()


def test_values_beyond_float16_are_refused_and_not_infinite() -> None:
    with pytest.raises(EmbeddingError, match="beyond float16"):
        to_stored(np.full((1, 2), 7e4, np.float32), "float16")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_no_vectors_at_all_are_stored_too(dtype: StoredDtype) -> None:
    arrays = to_stored(np.empty((0, 4), np.float32), dtype)
    assert from_stored(arrays, dtype).shape == (0, 4)
