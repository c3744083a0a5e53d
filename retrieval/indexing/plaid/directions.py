"""Residuals along their principal directions, with more bits for those that say more.

Legend: T tokens, D width, C components that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from retrieval.indexing.plaid.values import Floats, fit_values

_MOST_BITS = 2
"""At more bits what is left out would be more than what rounding loses."""
_TOKENS_PER_COMPONENT = 8
"""Fewer tokens don't say which directions are the principal ones."""


def kept_components(width: int) -> int:
    """C: three quarters of the principal directions have bits, of which a third has twice as many.

    So bytes are those of `width` components with the same number of bits each. Of the residuals of
    a trained retriever (128 components) the first quarter has 57 % of the energy and the last one
    4 %.
    """
    return width // 4 * 3


@dataclass(frozen=True, kw_only=True)
class PrincipalDirections:
    """Where the residuals of most tokens lie.

    Attributes:
        directions: (C, D) orthogonal. A residual is its components times these, which are as long
            as the residuals' standard deviation along them, times a factor of the first third and
            one of the others: it makes the tokens' largest products with both the same, so that
            few bits hold them.
        first_values: (2**(2 * bits),) what the numbers of the first C / 3 components stand for,
            ascending.

    Source: Huang and Schultheiss 1963, "Block quantization of correlated Gaussian random
    variables": bits by the logarithm of each principal component's variance.
    """

    directions: Floats
    first_values: Floats

    @classmethod
    def fit(cls, residuals_TD: Floats, tokens_TD: Floats, bits: int) -> tuple[Self, Floats]:
        """Learn the directions, and (2**bits,) values of the components after the first C / 3.

        Args:
            residuals_TD: of a sample of tokens.
            tokens_TD: unit vectors like those of queries; those of the sample or others.
            bits: of the components after the first third.
        """
        width = residuals_TD.shape[1]
        second_moments_DD = residuals_TD.T @ residuals_TD / len(residuals_TD)
        variances, vectors_DD = np.linalg.eigh(second_moments_DD.astype(np.float64))
        kept = np.argsort(-variances)[: kept_components(width)]
        deviations = np.sqrt(np.maximum(variances[kept], 1e-12))
        directions = np.ascontiguousarray((vectors_DD[:, kept] * deviations).T.astype(np.float32))
        first = len(kept) // 3
        for section in (directions[:first], directions[first:]):
            section /= max(1e-12, float(np.abs(tokens_TD @ section.T).max(axis=1).mean()))
        found = cls(directions=directions, first_values=np.empty(0, np.float32))
        components_TC = residuals_TD @ found.to_components
        first_values = fit_values(components_TC[:, :first], 2 * bits)
        return replace(found, first_values=first_values), fit_values(components_TC[:, first:], bits)

    @cached_property
    def squares(self) -> Floats:
        """(C,) squared lengths of the directions."""
        squares: Floats = np.square(self.directions).sum(axis=1)
        return squares

    @cached_property
    def to_components(self) -> Floats:
        """(D, C) whose product with residuals is their components."""
        return np.ascontiguousarray(self.directions.T / self.squares)


def may_have_directions(width: int, bits: int, tokens: int) -> bool:
    """Whether components of so many bits can be given to principal directions."""
    fill_bytes = width * bits % 16 == 0
    return bits <= _MOST_BITS and fill_bytes and tokens >= _TOKENS_PER_COMPONENT * width
