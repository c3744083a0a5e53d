"""Token vectors rounded to bytes, with bounds of the rounding: what the exact index scans."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
_BLOCK = 1 << 12


class RoundedTokens(NamedTuple):
    """T tokens as bytes."""

    codes: NDArray[np.uint8]
    """(T, D): 128 + a signed byte, which stands for so many of the row's scale."""
    scales: NDArray[np.float32]
    """(T,) of each row."""
    errors: NDArray[np.float32]
    """(T,) at least the length of what rounding took away."""
    sizes: NDArray[np.float32]
    """(T,) at least the length of what is left."""


def round_tokens(tokens_TD: NDArray[Any]) -> RoundedTokens:
    """Round each row to 255 even steps, up to its largest component.

    Args:
        tokens_TD: (T, D) float32 or float16, finite.
    """
    count, width = tokens_TD.shape
    codes = np.empty((count, width), np.uint8)
    scales, errors, sizes = (np.empty(count, np.float32) for _ in range(3))
    for first in range(0, count, _BLOCK):
        rows = slice(first, first + _BLOCK)
        exact = tokens_TD[rows].astype(np.float32)
        # Not so small that a level overflows.
        step = np.maximum(np.abs(exact).max(axis=1) / np.float32(LEVELS), np.float32(1e-37))
        exact /= step[:, None]
        levels = np.rint(exact)
        codes[rows] = levels + np.float32(128)
        exact -= levels
        # A quotient is off by 2^-24 of a component at the most, a sum of D squares by D * 2^-24 of
        # itself.
        slack = step * np.float32(1 + (width + 8) * 2.0**-23)
        size = slack * np.sqrt(np.einsum("td,td->t", levels, levels))
        error = slack * np.sqrt(np.einsum("td,td->t", exact, exact))
        scales[rows], sizes[rows] = step, size
        errors[rows] = error + size * np.float32(2.0**-22)
    return RoundedTokens(codes, scales, errors, sizes)
