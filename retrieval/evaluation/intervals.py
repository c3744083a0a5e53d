"""How far a mean over queries may be off: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TRIALS = 2_000
CONFIDENCE = 0.95

Values = Sequence[float] | NDArray[np.float64]

_DRAWS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """A range that holds a mean with the confidence that was asked for."""

    low: float
    high: float


def bootstrap_interval(
    samples: Sequence[Values],
    *,
    confidence: float = CONFIDENCE,
    trials: int = TRIALS,
    seed: int = 0,
) -> Interval:
    """The interval of a mean over data sets, each of which has the same weight.

    Queries are drawn again, with replacement, within each data set: what is asked is how the mean
    would move with other queries of the same data sets, not with other data sets.

    Args:
        samples: for each data set the values of its queries; one data set is a plain mean.
        confidence: of the interval, above 0 and below 1.
        trials: how often queries are drawn.
        seed: of the draws; the same one gives the same interval.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    assert all(map(len, samples or [[]])), "a mean of nothing has no interval"
    generator = np.random.default_rng(seed)
    means = np.mean([_drawn_means(each, trials, generator) for each in samples], axis=0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail)).tolist()
    return Interval(low, high)


def _drawn_means(
    values: Values, trials: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The means of `trials` samples of the values, in parts that bound the memory."""
    known = np.asarray(values, np.float64)
    step = max(1, _DRAWS_AT_ONCE // len(known))
    parts = []
    for start in range(0, trials, step):
        rows = min(step, trials - start)
        parts.append(known[generator.integers(len(known), size=(rows, len(known)))].mean(axis=1))
    return np.concatenate(parts)
