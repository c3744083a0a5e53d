"""Tokens in clusters, as a language model's are, for the tests of PLAID's parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Tokens = Callable[[int, int], NDArray[np.float32]]


@pytest.fixture(scope="session")
def clustered() -> Tokens:
    """Makes (count, 13) tokens of unit length around 40 centres; 13 fills no byte at 2 bits."""
    centres = np.random.default_rng(99).standard_normal((40, 13))

    def make(count: int, seed: int) -> NDArray[np.float32]:
        generator = np.random.default_rng(seed)
        tokens = centres[generator.integers(0, 40, count)]
        tokens = tokens + 0.5 * generator.standard_normal((count, 13))
        units: NDArray[np.float64] = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
        return units.astype(np.float32)

    return make
