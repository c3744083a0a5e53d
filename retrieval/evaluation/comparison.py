"""Systems against a baseline: differences, intervals and tests for each data set and their mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.evaluation.result_files import DataSet, MeasuredSystem
from retrieval.evaluation.result_matching import choose_metrics, shared_data_sets
from retrieval.evaluation.significance import (
    TIE,
    SignificanceSettings,
    bootstrap,
    correct_p_values,
    effect_size,
    randomisation_test,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PValue:
    """A two-sided p value."""

    raw: float
    corrected: float
    """For the number of comparisons; to be held against the level."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One system against the baseline, by one metric, on one data set or in the mean."""

    metric: str
    data_set: DataSet | None
    """None for the mean over data sets, in which each weighs the same."""
    system: str
    queries: int
    baseline_value: float
    value: float
    difference: float
    """The system's value less the baseline's."""
    low: float
    """The lower end of the difference's interval."""
    high: float
    randomisation: PValue
    bootstrap: PValue
    effect: float | None
    """In standard deviations of the queries' differences; see `effect_size`."""
    wins: int
    """Queries on which the system has the greater value."""
    ties: int
    losses: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems compared with a baseline; made by `compare`."""

    baseline: str
    systems: tuple[str, ...]
    """Those compared with the baseline."""
    data_sets: tuple[DataSet, ...]
    metrics: tuple[str, ...]
    settings: SignificanceSettings
    contrasts: tuple[Contrast, ...]
    """By metric, then data set, the mean last, then system."""
    warnings: tuple[str, ...]
    """What a reader has to know; logged too."""


def compare(
    systems: Sequence[MeasuredSystem],
    metrics: Sequence[str] = (),
    settings: SignificanceSettings | None = None,
) -> Comparison:
    """Test every system against the first.

    The p values of each of the two tests are corrected together: all systems, metrics, data sets
    and their mean are one family of comparisons.

    Args:
        systems: the baseline, then at least one other.
        metrics: by default the first that all results have.
        settings: of the tests; defaults where None.

    Raises:
        ConfigError: fewer than two systems, or a metric that is unknown or not measured.
        InputError: no data set is shared, or two results of one are of different queries or
            judgements.
    """
    if len(systems) < 2:
        raise ConfigError("a comparison takes a baseline and at least one other system")
    settings = settings or SignificanceSettings()
    data_sets, warnings = shared_data_sets(systems)
    for each in warnings:
        logger.warning("%s", each)
    baseline, *others = systems
    names = choose_metrics(systems, data_sets, metrics)
    contrasts = []
    for metric in names:
        groups: list[tuple[DataSet | None, list[DataSet]]] = [(each, [each]) for each in data_sets]
        if len(data_sets) > 1:
            groups.append((None, data_sets))
        for label, group in groups:
            before = [_query_values(baseline, each, metric) for each in group]
            for system in others:
                after = [_query_values(system, each, metric) for each in group]
                contrasts.append(_contrast(metric, label, system.name, before, after, settings))
    return Comparison(
        baseline=baseline.name,
        systems=tuple(each.name for each in others),
        data_sets=tuple(data_sets),
        metrics=tuple(names),
        settings=settings,
        contrasts=tuple(_corrected(contrasts, settings)),
        warnings=tuple(warnings),
    )


def _query_values(system: MeasuredSystem, data_set: DataSet, metric: str) -> NDArray[np.float64]:
    """(Q,): a system's values by query, in the order of the queries' ids."""
    per_query = system.results[data_set].per_query
    return np.array([per_query[query_id][metric] for query_id in sorted(per_query)])


def _contrast(
    metric: str,
    data_set: DataSet | None,
    system: str,
    before: Sequence[NDArray[np.float64]],
    after: Sequence[NDArray[np.float64]],
    settings: SignificanceSettings,
) -> Contrast:
    differences = [b - a for a, b in zip(before, after)]
    every = np.concatenate(differences)
    baseline_value, value = (float(np.mean([v.mean() for v in each])) for each in (before, after))
    resampled = bootstrap(differences, settings)
    randomised = randomisation_test(differences, settings)
    wins, losses = int((every > TIE).sum()), int((every < -TIE).sum())
    return Contrast(
        metric=metric,
        data_set=data_set,
        system=system,
        queries=len(every),
        baseline_value=baseline_value,
        value=value,
        difference=value - baseline_value,
        low=resampled.low,
        high=resampled.high,
        randomisation=PValue(raw=randomised, corrected=randomised),
        bootstrap=PValue(raw=resampled.p, corrected=resampled.p),
        effect=effect_size(differences),
        wins=wins,
        ties=len(every) - wins - losses,
        losses=losses,
    )


def _corrected(contrasts: Sequence[Contrast], settings: SignificanceSettings) -> list[Contrast]:
    tests = []
    for p_values in (
        [each.randomisation.raw for each in contrasts],
        [each.bootstrap.raw for each in contrasts],
    ):
        corrected = correct_p_values(p_values, settings.correction)
        tests.append([PValue(raw=p, corrected=q) for p, q in zip(p_values, corrected)])
    return [
        replace(each, randomisation=randomisation, bootstrap=by_bootstrap)
        for each, randomisation, by_bootstrap in zip(contrasts, *tests)
    ]
