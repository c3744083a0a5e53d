"""What the bits of residuals stand for: values fitted to numbers, and numbers of values in bytes.

Legend: T tokens, C components, P bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BINS = 4096
_LLOYD_ROUNDS = 20
_FITTED_VALUES = 1 << 20
_HEADROOM = 1.5
"""Residuals at 8 bits may be so many times as large as those that were learned from."""
_FARTHEST = 1.25
"""Length of the residual of a token that no centroid is near, from a cosine of 0.2."""
_SIGMAS = 5
"""The largest of its components, in root mean squares."""


def fit_values(numbers_TC: Floats, bits: int) -> Floats:
    """(2**bits,) values, ascending, that round numbers like these with little error.

    They start as quantiles of the cube root of the numbers' density, which is where many values are
    best put, and are moved by Lloyd's algorithm.

    Source: Panter and Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform
    spacing of levels"; Lloyd 1982, "Least squares quantization in PCM".
    """
    numbers = numbers_TC[:: max(1, numbers_TC.size // _FITTED_VALUES)].ravel()
    count = 1 << bits
    histogram, edges = np.histogram(numbers, bins=_BINS)
    weights = np.cumsum(np.cbrt(histogram))
    middles = (np.arange(count) + 0.5) / count
    values: NDArray[np.float64] = np.interp(middles, weights / weights[-1], edges[1:])
    for _ in range(_LLOYD_ROUNDS):
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, numbers)
        filled = np.bincount(nearest, minlength=count)
        sums = np.bincount(nearest, weights=numbers, minlength=count)
        # A bucket that no number falls into keeps its value.
        values = np.sort(np.where(filled > 0, sums / np.maximum(filled, 1), values))
    return values.astype(np.float32)


def even_values(residuals_TD: Floats) -> Floats:
    """(256,) evenly spaced values, zero in the middle, and one that only rounding can reach.

    They reach as far as the residual of any unit vector: those to come may be nothing like these.
    """
    seen = float(np.abs(residuals_TD).max())
    farthest = _SIGMAS * _FARTHEST / math.sqrt(residuals_TD.shape[1])
    step = min(2.0, max(_HEADROOM * seen, farthest)) / 127
    return (np.arange(256, dtype=np.float32) - 128) * np.float32(step)


def pack(numbers_TC: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers below 2**bits as (T, P) bytes; the last byte is filled up with zeros."""
    per_byte = 8 // bits
    missing = -numbers_TC.shape[1] % per_byte
    padded = np.pad(numbers_TC, ((0, 0), (0, missing)))
    packed = np.zeros((len(numbers_TC), padded.shape[1] // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= padded[:, place::per_byte] << np.uint8(bits * place)
    return packed


def values_of_bytes(values: Floats) -> Floats:
    """(256, numbers of a byte) what a byte of packed numbers stands for."""
    bits = len(values).bit_length() - 1
    shifts = np.arange(0, 8, bits)
    numbers = (np.arange(256)[:, None] >> shifts) & (len(values) - 1)
    table: Floats = values[numbers]
    return table
