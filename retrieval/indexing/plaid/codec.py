"""Tokens as a centroid's number and a few bits for each component of the residual.

Legend: T tokens, K centroids, D width, C components of a residual, P bytes of it, M query tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EmbeddingError
from retrieval.indexing.plaid.directions import PrincipalDirections, may_have_directions
from retrieval.indexing.plaid.values import (
    Floats,
    even_values,
    fit_values,
    pack,
    values_of_bytes,
)

LONGEST = 1 << 13
"""As long as a token may be."""
SHORTEST = 1 / 7
"""As long as what a unit vector's codes stand for is taken to be at least: the scale of the longest
token is one that float16 has."""

_CHUNK = 1 << 14
_MOST_FITTED = 1 << 16


def code_type(centroids: int) -> type[np.uint16] | type[np.int32]:
    """In what the numbers of so many centroids are stored."""
    return np.uint16 if centroids <= 1 << 16 else np.int32


class EncodedTokens(NamedTuple):
    """T tokens as an index stores them."""

    codes: NDArray[np.integer]
    """(T,) numbers of centroids: uint16 where that is enough, else int32."""
    residuals: NDArray[np.uint8]
    """(T, P) the values' numbers of the components, the first one in the lowest bits."""
    scales: NDArray[np.float16]
    """(T,) the token's length over that of centroid plus residual; 0 for a zero vector."""


class Section(NamedTuple):
    """Components of a residual that have equally many bits."""

    components: int
    values: Floats
    """(2**bits,) what their numbers stand for, ascending."""

    @property
    def bits(self) -> int:
        """Of a component."""
        return len(self.values).bit_length() - 1

    @property
    def bounds(self) -> Floats:
        """(2**bits - 1,) in the middle between neighbouring values."""
        return (self.values[1:] + self.values[:-1]) * np.float32(0.5)

    @property
    def bytes(self) -> int:
        """Of all the components."""
        return -(-self.components * self.bits // 8)


@dataclass(frozen=True, kw_only=True)
class ResidualCodec:
    """Rounds the difference between a token and its centroid to a few values.

    Each of the vector's own components has equally many bits, and all share 2**bits values. At 4
    bits 1.2 % of the residuals' energy is lost, of equally filled buckets 3.9 % (SciFact, MiniLM's
    token states). At 8 bits the values are evenly spaced, which loses next to nothing and lets a
    token's bytes be multiplied as they are.

    Or, at 1 and 2 bits, the components are those along the residuals' principal directions, where
    these are so unequal that scores lose less: the first have twice as many bits and the last none,
    in as many bytes.

    Attributes:
        centroids: (K, D) float32 that float16 holds exactly, which is how they are saved.
        values: (2**bits,) float32, ascending.
        spread: root mean square of a residual's components, and so of its dot products with
            vectors of unit length.
        principal: the directions; None for the vector's own components.

    Source: Santhanam et al. 2022, "ColBERTv2", arXiv:2112.01488, section 3.3.
    """

    centroids: Floats
    values: Floats
    spread: float
    principal: PrincipalDirections | None = None

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
        every = max(1, len(tokens) // _MOST_FITTED)
        tokens = tokens[::every]
        residuals = tokens - centroids[codes[::every]]
        spread = float(np.sqrt(np.mean(np.square(residuals, dtype=np.float64))))
        values = even_values(residuals) if bits == 8 else fit_values(residuals, bits)
        plain = cls(centroids=centroids, values=values, spread=spread)
        if not may_have_directions(tokens.shape[1], bits, len(tokens)):
            return plain
        # What half of them teach is judged by the other half.
        principal, values = PrincipalDirections.fit(residuals[::2], tokens, bits)
        directed = cls(centroids=centroids, values=values, spread=spread, principal=principal)
        others = residuals[1::2]
        return min(plain, directed, key=lambda codec: codec._score_error(others, tokens))

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The components, in order."""
        if self.principal is None:
            return (Section(self.width, self.values),)
        kept = len(self.principal.directions)
        first = kept // 3
        return Section(first, self.principal.first_values), Section(kept - first, self.values)

    @property
    def bits(self) -> int:
        """Bits of a component, in the mean of all."""
        return len(self.values).bit_length() - 1

    @property
    def width(self) -> int:
        """Components of a token."""
        width: int = self.centroids.shape[1]
        return width

    @property
    def residual_bytes(self) -> int:
        """P."""
        return sum(section.bytes for section in self.sections)

    def encode(self, tokens: Floats, codes: NDArray[np.integer]) -> EncodedTokens:
        """Encode (T, D) tokens whose centroids are known.

        Raises:
            EmbeddingError: a token is longer than float16 can say.
        """
        self.check_lengths(tokens)
        packed = np.empty((len(tokens), self.residual_bytes), np.uint8)
        scales = np.empty(len(tokens), np.float32)
        for at in range(0, len(tokens), _CHUNK):
            rows = slice(at, at + _CHUNK)
            nearest = self.centroids[codes[rows]]
            lengths = np.linalg.norm(tokens[rows], axis=1)
            units = tokens[rows] / np.where(lengths > 0, lengths, 1)[:, None]
            packed[rows] = self._packed(units - nearest)
            rebuilt = np.linalg.norm(nearest + self.residuals(packed[rows]), axis=1)
            scales[rows] = lengths / np.maximum(rebuilt, np.float32(SHORTEST))
        return EncodedTokens(
            codes.astype(code_type(len(self.centroids))), packed, scales.astype(np.float16)
        )

    def check_lengths(self, tokens: Floats) -> None:
        """Refuse tokens whose scale float16 could not hold.

        Raises:
            EmbeddingError: a token is longer than `LONGEST`.
        """
        if len(tokens) and (longest := float(np.linalg.norm(tokens, axis=1).max())) > LONGEST:
            raise EmbeddingError(f"a token of length {longest:.3g}, expected at most {LONGEST:,}")

    def residuals(self, packed: NDArray[np.uint8]) -> Floats:
        """Unpack (T, P) bytes to (T, D) residuals."""
        components = self._components(packed)
        if self.principal is None:
            return components
        residuals: Floats = components @ self.principal.directions
        return residuals

    def residual_products(self, packed: NDArray[np.uint8], query_MD: Floats) -> Floats:
        """(T, M) dot products of residuals with query tokens."""
        if self.principal is not None:
            query_MD = query_MD @ self.principal.directions.T
        products: Floats = self._components(packed) @ query_MD.T
        return products

    def decode(self, encoded: EncodedTokens) -> Floats:
        """The (T, D) tokens that the codes stand for."""
        tokens: Floats = np.take(self.centroids, encoded.codes, axis=0)
        tokens += self.residuals(encoded.residuals)
        tokens *= encoded.scales[:, None].astype(np.float32)
        return tokens

    @cached_property
    def centroid_components(self) -> Floats:
        """(K, C) of the centroids, along the principal directions if there are any."""
        if self.principal is None:
            return self.centroids
        components: Floats = self.centroids @ self.principal.to_components
        return components

    @cached_property
    def _tables(self) -> list[Floats]:
        return [values_of_bytes(section.values) for section in self.sections]

    def _packed(self, residuals_TD: Floats) -> NDArray[np.uint8]:
        components_TC = residuals_TD
        if self.principal is not None:
            components_TC = residuals_TD @ self.principal.to_components
        parts, first = [], 0
        for section in self.sections:
            part = components_TC[:, first : first + section.components]
            numbers = np.searchsorted(section.bounds, part).astype(np.uint8)
            parts.append(pack(numbers, section.bits))
            first += section.components
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _components(self, packed_TP: NDArray[np.uint8]) -> Floats:
        parts, first = [], 0
        for section, table in zip(self.sections, self._tables):
            part = packed_TP[:, first : first + section.bytes]
            # np.take of whole rows is ten times as fast as an index in brackets.
            unpacked = np.take(table, part, axis=0).reshape(len(part), -1)
            parts.append(unpacked[:, : section.components])
            first += section.bytes
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _score_error(self, residuals_TD: Floats, tokens_TD: Floats) -> float:
        """Mean square of what rounding adds to dot products with vectors like these tokens."""
        errors_TD = residuals_TD - self.residuals(self._packed(residuals_TD))
        errors_DD = errors_TD.T @ errors_TD / len(errors_TD)
        return float(np.sum(errors_DD * (tokens_TD.T @ tokens_TD))) / len(tokens_TD)
