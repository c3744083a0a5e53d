"""Tokens as a centroid's number and a few bits for each component of the residual.

Legend: T tokens, K centroids, D width, P bytes of a token's residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EmbeddingError

Floats = NDArray[np.float32]

_BINS = 4096
_LLOYD_ROUNDS = 20
_FITTED_VALUES = 1 << 20
_CHUNK = 1 << 14
_HEADROOM = 1.5
"""Residuals at 8 bits may be so many times as large as those that were learned from."""
_FARTHEST = 1.25
"""Length of the residual of a token that no centroid is near, from a cosine of 0.2."""
_SIGMAS = 5
"""The largest of its components, in root mean squares."""


def code_type(centroids: int) -> type[np.uint16] | type[np.int32]:
    """In what the numbers of so many centroids are stored."""
    return np.uint16 if centroids <= 1 << 16 else np.int32


class EncodedTokens(NamedTuple):
    """T tokens as an index stores them."""

    codes: NDArray[np.integer]
    """(T,) numbers of centroids: uint16 where that is enough, else int32."""
    residuals: NDArray[np.uint8]
    """(T, P) the values' numbers of D components, the first one in the lowest bits."""
    scales: NDArray[np.float16]
    """(T,) the token's length over that of centroid plus residual; 0 for a zero vector."""


@dataclass(frozen=True, kw_only=True)
class ResidualCodec:
    """Rounds the difference between a token and its centroid to 2**bits values.

    The values are shared by all components. They start as quantiles of the cube root of the
    residuals' density, which is where many values are best put, and are moved by Lloyd's algorithm.
    At 4 bits 1.2 % of the residuals' energy is lost, of equally filled buckets 3.9 % (SciFact,
    MiniLM's token states). At 8 bits they are evenly spaced, which loses next to nothing and lets
    a token's bytes be multiplied as they are; they reach as far as a residual of any token, since
    those to come may be nothing like those that were learned from.

    Attributes:
        centroids: (K, D) float32 that float16 holds exactly, which is how they are saved.
        values: (2**bits,) float32, ascending.
        spread: root mean square of a residual's components, and so of its dot products with
            vectors of unit length.

    Source: Santhanam et al. 2022, "ColBERTv2", arXiv:2112.01488, section 3.3; Panter and Dite
    1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels";
    Lloyd 1982, "Least squares quantization in PCM".
    """

    centroids: Floats
    values: Floats
    spread: float

    @classmethod
    def fit(cls, centroids: Floats, tokens: Floats, codes: NDArray[np.integer], bits: int) -> Self:
        """Learn the values from a sample.

        Args:
            centroids: (K, D), unit length.
            tokens: (T, D), unit length, T at least 1.
            codes: (T,) the tokens' centroids.
            bits: 1, 2, 4 or 8.
        """
        centroids = centroids.astype(np.float16).astype(np.float32)
        every = max(1, tokens.size // _FITTED_VALUES)
        residuals = (tokens[::every] - centroids[codes[::every]]).ravel()
        spread = float(np.sqrt(np.mean(np.square(residuals, dtype=np.float64))))
        if bits == 8:
            # 255 values, zero in the middle, and one that only rounding can reach.
            seen = float(np.abs(residuals).max())
            farthest = _SIGMAS * _FARTHEST / math.sqrt(tokens.shape[1])
            step = min(2.0, max(_HEADROOM * seen, farthest)) / 127
            values = (np.arange(256, dtype=np.float32) - 128) * np.float32(step)
        else:
            values = _fit_values(residuals, 1 << bits)
        return cls(centroids=centroids, values=values, spread=spread)

    @property
    def bits(self) -> int:
        """Bits of a component."""
        return len(self.values).bit_length() - 1

    @property
    def width(self) -> int:
        """Components of a token."""
        width: int = self.centroids.shape[1]
        return width

    def encode(self, tokens: Floats, codes: NDArray[np.integer]) -> EncodedTokens:
        """Encode (T, D) tokens whose centroids are known.

        Raises:
            EmbeddingError: a token is longer than float16 can say.
        """
        self.check_lengths(tokens)
        per_byte = 8 // self.bits
        packed = np.empty((len(tokens), -(-self.width // per_byte)), np.uint8)
        scales = np.zeros(len(tokens), np.float32)
        for at in range(0, len(tokens), _CHUNK):
            rows = slice(at, at + _CHUNK)
            nearest = self.centroids[codes[rows]]
            lengths = np.linalg.norm(tokens[rows], axis=1)
            units = tokens[rows] / np.where(lengths > 0, lengths, 1)[:, None]
            numbers = np.searchsorted(self.bounds, units - nearest).astype(np.uint8)
            packed[rows] = _pack(numbers, self.bits)
            rebuilt = np.linalg.norm(nearest + self.values[numbers], axis=1)
            np.divide(lengths, rebuilt, out=scales[rows], where=rebuilt > 0)
        return EncodedTokens(
            codes.astype(code_type(len(self.centroids))), packed, scales.astype(np.float16)
        )

    def check_lengths(self, tokens: Floats) -> None:
        """Refuse tokens whose scale float16 could not hold.

        Raises:
            EmbeddingError: a token is longer than 8,192.
        """
        # A centroid plus its residual is never shorter than an eighth.
        if len(tokens) and (longest := float(np.linalg.norm(tokens, axis=1).max())) > 1 << 13:
            raise EmbeddingError(f"a token of length {longest:.3g}, expected at most 8,192")

    def residuals(self, packed: NDArray[np.uint8]) -> Floats:
        """Unpack (T, P) bytes to (T, D) residuals."""
        # np.take of whole rows is ten times as fast as an index in brackets.
        unpacked = np.take(self._table, packed, axis=0).reshape(len(packed), -1)
        return unpacked[:, : self.width]

    def decode(self, encoded: EncodedTokens) -> Floats:
        """The (T, D) tokens that the codes stand for."""
        tokens: Floats = np.take(self.centroids, encoded.codes, axis=0)
        tokens += self.residuals(encoded.residuals)
        tokens *= encoded.scales[:, None].astype(np.float32)
        return tokens

    @cached_property
    def bounds(self) -> Floats:
        """(2**bits - 1,) between the values."""
        return (self.values[1:] + self.values[:-1]) * np.float32(0.5)

    @cached_property
    def _table(self) -> Floats:
        """(256, 8 // bits) the values that a byte stands for."""
        shifts = np.arange(0, 8, self.bits)
        numbers = (np.arange(256)[:, None] >> shifts) & (len(self.values) - 1)
        table: Floats = self.values[numbers]
        return table


def _fit_values(residuals: Floats, count: int) -> Floats:
    histogram, edges = np.histogram(residuals, bins=_BINS)
    weights = np.cumsum(np.cbrt(histogram))
    middles = (np.arange(count) + 0.5) / count
    values: NDArray[np.float64] = np.interp(middles, weights / weights[-1], edges[1:])
    for _ in range(_LLOYD_ROUNDS):
        numbers = np.searchsorted((values[1:] + values[:-1]) / 2, residuals)
        filled = np.bincount(numbers, minlength=count)
        sums = np.bincount(numbers, weights=residuals, minlength=count)
        # A bucket that no residual falls into keeps its value.
        values = np.sort(np.where(filled > 0, sums / np.maximum(filled, 1), values))
    return values.astype(np.float32)


def _pack(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(T, D) numbers below 2**bits as (T, P) bytes; the last byte is filled up with zeros."""
    per_byte = 8 // bits
    missing = -numbers.shape[1] % per_byte
    padded = np.pad(numbers, ((0, 0), (0, missing)))
    packed = np.zeros((len(numbers), padded.shape[1] // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= padded[:, place::per_byte] << np.uint8(bits * place)
    return packed
