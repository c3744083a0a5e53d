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
    bounds: NDArray[np.float32]
    """(T, 3): the scale of each row, at least the length of what rounding took away, and at least
    the length of what is left."""


def round_tokens(tokens_TD: NDArray[Any]) -> RoundedTokens:
    """Round each row to 255 even steps, up to its largest component.

    Args:
        tokens_TD: (T, D) float32 or float16, finite.
    """
    count, width = tokens_TD.shape
    codes = np.empty((count, width), np.uint8)
    bounds = np.empty((count, 3), np.float32)
    for first in range(0, count, _BLOCK):
        rows = slice(first, first + _BLOCK)
        exact = tokens_TD[rows].astype(np.float32)
        # Not so small that a level overflows, nor that its inverse does.
        scales = np.maximum(np.abs(exact).max(axis=1) / np.float32(LEVELS), np.float32(1e-37))
        levels = exact / scales[:, None]
        np.rint(levels, out=levels)
        codes[rows] = levels + np.float32(128)
        lengths = scales * np.sqrt(np.einsum("td,td->t", levels, levels))
        levels *= scales[:, None]
        exact -= levels
        # Every product and difference above is off by 2^-24 of a component at the most, and a sum
        # of D squares by D * 2^-24 of itself.
        slack = np.float32(1 + (width + 8) * 2.0**-23)
        lengths *= slack
        errors = np.sqrt(np.einsum("td,td->t", exact, exact)) * slack
        bounds[rows, 0] = scales
        bounds[rows, 1] = errors + lengths * np.float32(2.0**-22)
        bounds[rows, 2] = lengths
    return RoundedTokens(codes, bounds)
