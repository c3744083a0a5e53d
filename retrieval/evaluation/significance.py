"""Paired tests between two systems: a randomisation test, a bootstrap test, intervals, corrections.

Every function takes the differences between two systems, one array a data set with one number a
query, and judges the mean over data sets, in which each data set weighs the same. A single data
set is the ordinary case: its mean over queries. Queries are the sample: what a test says holds for
further queries of the same kind, not for other collections or for another training run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError

Correction = Literal["holm", "bonferroni", "none"]
Differences = Sequence[NDArray[np.float64]]
"""By data set, (Q,): the system's value less the baseline's for each query, Q at least 1."""

TIE = 1e-9
"""Two values of a query that differ by less are equal but for rounding."""

_CHUNK_NUMBERS = 1 << 20
"""Random numbers that are held at a time, which bounds memory at some 30 MB."""
_SLACK = 1e-9
"""Relative: what differs by less is equal but for rounding, and counts against the system."""


@dataclass(frozen=True, kw_only=True)
class SignificanceSettings:
    """How systems are tested.

    Attributes:
        trials: random samples for each test; no p value is below 1 / (trials + 1).
        seed: of the random numbers. Every test starts from it anew, so that a p value before
            correction does not depend on what else is compared.
        confidence: of the intervals, between 0 and 1.
        correction: for the number of comparisons. "holm" and "bonferroni" hold the chance of any
            false positive among them at the level that is tested; holm is never the weaker one.
    """

    trials: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    correction: Correction = "holm"

    def __post_init__(self) -> None:
        if self.trials < 100:
            raise ConfigError(f"trials is {self.trials}, expected 100 or more")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}, expected between 0 and 1")
        if self.correction not in ("holm", "bonferroni", "none"):
            raise ConfigError(
                f"correction is {self.correction!r}, expected holm, bonferroni or none"
            )


class BootstrapResult(NamedTuple):
    """What resampled queries say."""

    low: float
    """The interval's lower end."""
    high: float
    p: float
    """Two-sided."""


def randomisation_test(
    differences: Differences, settings: SignificanceSettings | None = None
) -> float:
    """The two-sided p value of Fisher's paired randomisation test, by random sign flips.

    Were the systems equal, each query's difference could as well have had the other sign. The p
    value is the share of such flips with a mean at least as far from 0, the observed one counted
    among them; it is 1 where no query differs.

    Source: Smucker, Allan and Carterette 2007, "A comparison of statistical significance tests for
    information retrieval evaluation".
    """
    settings = settings or SignificanceSettings()
    weighted = np.concatenate([each / (len(each) * len(differences)) for each in differences])
    weighted = weighted[weighted != 0]  # a flip changes nothing there
    observed = abs(weighted.sum()) - _SLACK * np.abs(weighted).sum()
    generator = np.random.default_rng(settings.seed)
    extreme = 0
    for rows in _chunks(settings.trials, len(weighted)):
        flips = _random_bits(generator, rows, len(weighted))
        # The sum with some signs flipped is the sum less twice what is flipped.
        means = weighted.sum() - 2 * (flips @ weighted)
        extreme += int(np.count_nonzero(np.abs(means) >= observed))
    return (extreme + 1) / (settings.trials + 1)


def bootstrap(
    differences: Differences, settings: SignificanceSettings | None = None
) -> BootstrapResult:
    """An interval and a p value for the mean difference, by drawing queries with replacement.

    Queries are drawn within each data set. Both are two-sided and studentised: the mean over its
    standard error is compared with what draws from the differences, shifted to a mean of 0, give,
    and the interval holds every mean that the observed one would not be told apart from. So it is
    symmetric, and 0 is outside of it exactly where p is at most 1 - confidence. The p value is 1
    where all differences of a data set are equal in every data set, and the interval is their mean
    alone: such queries say nothing about how far others would vary.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", sections 12.5 and 16.4;
    Hall 1988, "On symmetric bootstrap confidence intervals"; Sakai 2006, "Evaluating evaluation
    metrics based on the bootstrap", for retrieval.
    """
    settings = settings or SignificanceSettings()
    generator = np.random.default_rng(settings.seed)
    shape = (len(differences), settings.trials)
    shifts, variances = np.empty(shape), np.empty(shape)
    for row, each in enumerate(differences):
        shifts[row], variances[row] = _draws(each, settings.trials, generator)
    shift = shifts.mean(axis=0)
    mean = float(np.mean([each.mean() for each in differences]))
    # Both are standard errors but for the same factor, the number of data sets.
    error = np.sqrt(sum(each.var() / len(each) for each in differences))
    errors = np.sqrt(variances.sum(axis=0))
    # A draw of equal differences has no error to divide by: the observed one is taken instead.
    errors[errors <= _SLACK * error] = error
    if error == 0:
        return BootstrapResult(mean, mean, 1.0)
    ratios = np.sort(np.abs(shift) / errors)
    reached = len(ratios) - np.searchsorted(ratios, abs(mean) / error * (1 - _SLACK))
    rank = math.ceil(settings.confidence * (settings.trials + 1) - _SLACK)
    margin = float(ratios[min(rank, settings.trials) - 1] * error)
    return BootstrapResult(mean - margin, mean + margin, int(reached + 1) / (settings.trials + 1))


def effect_size(differences: Differences) -> float | None:
    """The mean difference in standard deviations of the queries' differences (Cohen's d for pairs).

    Some 0.2 is called small, 0.5 medium, 0.8 large. The deviation is the root of the data sets'
    mean variance. None where it is 0 or a data set has a single query.
    """
    if any(len(each) < 2 for each in differences):
        return None
    variance = float(np.mean([each.var(ddof=1) for each in differences]))
    if variance == 0:
        return None
    mean = float(np.mean([each.mean() for each in differences]))
    return mean / math.sqrt(variance)


def correct_p_values(p_values: Sequence[float], correction: Correction) -> list[float]:
    """Raise p values for the number of them, so that each can be compared with the level itself.

    >>> correct_p_values([0.01, 0.04, 0.03], "holm")
    [0.03, 0.06, 0.06]
    >>> correct_p_values([0.01, 0.04, 0.03], "bonferroni")
    [0.03, 0.12, 0.09]
    """
    count = len(p_values)
    corrected = list(p_values)
    if correction == "bonferroni":
        corrected = [min(1.0, count * p) for p in p_values]
    elif correction == "holm":
        least = 0.0  # of a p value: no smaller than those of more significant comparisons
        order = sorted(range(count), key=p_values.__getitem__)
        for place, at in enumerate(order):
            least = max(least, min(1.0, (count - place) * p_values[at]))
            corrected[at] = least
    return corrected


def _draws(
    differences: NDArray[np.float64], trials: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each trial, (T,): the drawn mean less the observed one, and the draw's variance / Q."""
    count = len(differences)
    centred = differences - differences.mean()
    shifts, variances = np.empty(trials), np.empty(trials)
    start = 0
    for rows in _chunks(trials, count):
        drawn = centred[generator.integers(count, size=(rows, count), dtype=np.uint32)]
        end = start + rows
        shifts[start:end] = drawn.mean(axis=1)
        variances[start:end] = drawn.var(axis=1) / count
        start = end
    return shifts, variances


def _random_bits(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns) of 0 and 1."""
    size = rows * columns
    packed = np.frombuffer(generator.bytes(-(-size // 8)), np.uint8)
    return np.unpackbits(packed, count=size).reshape(rows, columns).astype(np.float64)


def _chunks(trials: int, width: int) -> Iterator[int]:
    """Numbers of rows of `width` numbers that make up all trials, few enough to be in memory."""
    rows = max(1, _CHUNK_NUMBERS // max(1, width))
    for start in range(0, trials, rows):
        yield min(rows, trials - start)
