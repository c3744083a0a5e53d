"""Tests of tests: against scipy, against every flip and draw of small samples, on equal systems."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.evaluation import SignificanceSettings
from retrieval.evaluation.significance import (
    Correction,
    bootstrap,
    correct_p_values,
    effect_size,
    randomisation_test,
)

Differences = list[NDArray[np.float64]]
TRIALS = SignificanceSettings(trials=20_000)
# Four standard errors of a share that 20,000 trials estimate.
TOLERANCE = 4 * 0.5 / 20_000**0.5


def samples(seed: int = 3) -> dict[str, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return {
        "normal": generator.normal(0.05, 0.2, 60),
        "graded": generator.choice([-0.5, -0.13, 0, 0, 0.37, 0.5, 1], 40),
        "sparse": generator.choice([0.0, 0, 0, 0, 0, 1, -1], 80),
        "few": np.array([0.3, -0.1, 0.2, 0.4, 0.0, 0.1]),
    }


@pytest.mark.parametrize("name", samples())
def test_scipy_finds_the_same_randomisation_p_value(name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    sample = samples()[name]
    theirs = stats.permutation_test(
        (sample,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert randomisation_test([sample], TRIALS) == pytest.approx(theirs.pvalue, abs=2 * TOLERANCE)


@pytest.mark.parametrize("name", ["normal", "graded"])
def test_the_interval_is_near_that_of_the_t_test(name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    sample = samples()[name]
    theirs = stats.ttest_1samp(sample, 0).confidence_interval()
    ours = bootstrap([sample], TRIALS)
    error = sample.std() / len(sample) ** 0.5
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * error)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * error)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_0_is_outside_the_interval_exactly_where_the_test_says_so(confidence: float) -> None:
    generator = np.random.default_rng(3)
    outside = 0
    for trial in range(400):
        sample = generator.choice([-0.5, 0.0, 0.0, 0.1, 0.75], 25)
        settings = SignificanceSettings(trials=199, seed=trial, confidence=confidence)
        found = bootstrap([sample], settings)
        assert (not found.low <= 0 <= found.high) == (found.p <= 1 - confidence + 1e-12)
        outside += not found.low <= 0 <= found.high
    assert 0 < outside < 400


@pytest.mark.parametrize("name", ["normal", "graded"])
def test_the_bootstrap_p_value_is_near_that_of_the_t_test(name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    sample = samples()[name]
    expected = stats.ttest_1samp(sample, 0).pvalue
    assert bootstrap([sample], TRIALS).p == pytest.approx(expected, abs=0.03)


def test_all_sign_flips_of_a_small_sample_give_the_same_p_value() -> None:
    sets = [np.array([0.3, -0.1, 0.2, 0.5]), np.array([0.4, 0.0, 0.1])]

    def mean(flipped: Differences) -> float:
        return float(np.mean([each.mean() for each in flipped]))

    flips = [
        mean([sets[0] * signs[:4], sets[1] * signs[4:]]) for signs in product([1, -1], repeat=7)
    ]
    expected = np.mean([abs(each) >= abs(mean(sets)) - 1e-12 for each in flips])
    assert randomisation_test(sets, TRIALS) == pytest.approx(expected, abs=TOLERANCE)


def test_all_draws_of_a_small_sample_give_the_same_interval_and_p_value() -> None:
    sample = np.array([0.3, -0.1, 0.2, 0.55])
    draws = np.array([sample[list(chosen)] for chosen in product(range(4), repeat=4)])
    means, errors = draws.mean(axis=1), draws.std(axis=1)
    errors[errors < 1e-12] = sample.std()  # four times the same difference
    reached = np.abs(means - sample.mean()) / errors >= sample.mean() / sample.std() - 1e-9
    found = bootstrap([sample], TRIALS)
    assert found.p == pytest.approx(reached.mean(), abs=TOLERANCE)
    margin = np.quantile(np.abs(means - sample.mean()) / errors, 0.95) * sample.std()
    assert found.low == pytest.approx(sample.mean() - margin, abs=0.02)
    assert found.high == pytest.approx(sample.mean() + margin, abs=0.02)


def test_each_data_set_weighs_the_same_whatever_its_size() -> None:
    generator = np.random.default_rng(0)
    large, small = generator.normal(0.1, 0.2, 900), generator.normal(-0.1, 0.2, 50)
    found = bootstrap([large, small], TRIALS)
    middle = (large.mean() + small.mean()) / 2
    error = (large.var() / 900 + small.var() / 50) ** 0.5 / 2
    assert (found.low + found.high) / 2 == pytest.approx(middle, abs=0.1 * error)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert found.p > 0.1
    assert randomisation_test([large, small], TRIALS) > 0.1
    pooled = np.concatenate([large, small])
    assert randomisation_test([pooled], TRIALS) < 0.001
    assert bootstrap([pooled], TRIALS).p < 0.001


def test_equal_systems_have_p_values_of_one() -> None:
    same = np.zeros(30)
    assert randomisation_test([same]) == 1.0
    assert bootstrap([same]) == (0.0, 0.0, 1.0)
    assert effect_size([same]) is None


def test_differences_that_never_vary_prove_nothing_to_the_bootstrap() -> None:
    # Two queries that both gained 0.5: every draw gains 0.5 too.
    assert bootstrap([np.array([0.5, 0.5])]) == (0.5, 0.5, 1.0)
    assert bootstrap([np.array([0.5])]).p == 1.0
    assert randomisation_test([np.array([0.5, 0.5])], TRIALS) == pytest.approx(0.5, abs=TOLERANCE)


def test_a_clear_gain_of_nearly_every_query_is_seen_by_both_tests() -> None:
    # A third of the draws leave the last query out, and then do not vary.
    sample = [np.array([0.75] * 29 + [0.25])]
    assert bootstrap(sample).p < 0.001
    assert randomisation_test(sample) < 0.001


def test_a_few_queries_that_gained_prove_little() -> None:
    # Of 300 queries two were found: one draw in seven has neither.
    sample = [np.array([1.0] * 2 + [0.0] * 298)]
    assert bootstrap(sample).p > 0.1
    assert randomisation_test(sample, TRIALS) == pytest.approx(0.5, abs=TOLERANCE)


def test_no_p_value_is_below_what_the_trials_can_show() -> None:
    clear = [np.random.default_rng(0).normal(1, 0.1, 100)]
    settings = SignificanceSettings(trials=999)
    assert randomisation_test(clear, settings) == 0.001
    assert bootstrap(clear, settings).p == 0.001


def test_rounding_does_not_break_ties_between_sums() -> None:
    # Every flip that keeps the sum's size has other rounding errors: 0.1 + 0.2 - 0.3 is not 0.
    sample = np.array([0.1, 0.2, -0.3, 0.3, -0.2, -0.1, 0.7])
    scaled = np.round(sample * 10)
    assert randomisation_test([sample], TRIALS) == randomisation_test([scaled], TRIALS)
    assert bootstrap([sample], TRIALS).p == bootstrap([scaled], TRIALS).p


def test_a_seed_repeats_the_figures_and_another_changes_them_a_little() -> None:
    sample = [samples()["normal"]]
    first, again, other = (SignificanceSettings(seed=seed) for seed in (1, 1, 2))
    assert randomisation_test(sample, first) == randomisation_test(sample, again)
    assert bootstrap(sample, first) == bootstrap(sample, again)
    assert bootstrap(sample, first) != bootstrap(sample, other)
    assert randomisation_test(sample, first) == pytest.approx(
        randomisation_test(sample, other), abs=0.03
    )


def test_the_sign_of_the_difference_does_not_change_p_values() -> None:
    sample = samples()["graded"]
    assert randomisation_test([sample]) == randomisation_test([-sample])
    assert bootstrap([sample]).p == bootstrap([-sample]).p
    assert effect_size([sample]) == pytest.approx(-(effect_size([-sample]) or 0))


def test_memory_does_not_grow_with_the_trials() -> None:
    sample = [np.random.default_rng(0).normal(0, 1, 20_000)]
    peaks = []
    for trials in (200, 1000):
        tracemalloc.start()
        settings = SignificanceSettings(trials=trials)
        randomisation_test(sample, settings)
        bootstrap(sample, settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 60_000_000  # all at once would be 160 MB and more


def false_positives(test: str, make: Callable[[np.random.Generator], Differences]) -> int:
    """How many of 1,000 samples without a true difference are significant at 0.05."""
    generator = np.random.default_rng(12)
    count = 0
    for trial in range(1000):
        settings = SignificanceSettings(trials=400, seed=trial)
        sample = make(generator)
        if test == "randomisation":
            count += randomisation_test(sample, settings) <= 0.05
        else:
            count += bootstrap(sample, settings).p <= 0.05
    return count


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
@pytest.mark.parametrize("sizes", [[100], [50, 100, 30]], ids=["one data set", "three data sets"])
def test_equal_systems_are_told_apart_in_one_of_twenty_trials(test: str, sizes: list[int]) -> None:
    def make(generator: np.random.Generator) -> Differences:
        values = np.array([0.0, 0.0, 0.39, 0.43, 0.5, 0.63, 1.0])
        # How hard a query is, both systems share, as in real runs.
        both = [values[generator.binomial(6, generator.random(n), size=(2, n))] for n in sizes]
        return [each[1] - each[0] for each in both]

    assert 40 <= false_positives(test, make) <= 60


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
def test_equal_systems_are_told_apart_less_often_where_sums_can_be_equal(test: str) -> None:
    # Differences of a whole query, as success@k has them: equal sums count against the system.
    def make(generator: np.random.Generator) -> Differences:
        return [np.diff((generator.random((2, 200)) < 0.5).astype(float), axis=0)[0]]

    assert 15 <= false_positives(test, make) <= 60


@pytest.mark.parametrize("sizes", [[20], [50], [100, 300]], ids=str)
def test_the_interval_holds_the_true_difference_in_nineteen_of_twenty_trials(
    sizes: list[int],
) -> None:
    generator = np.random.default_rng(12)
    held = 0
    for trial in range(1000):
        settings = SignificanceSettings(trials=400, seed=trial)
        sample = [generator.choice([-0.4, 0, 0, 0.1, 0.8], n) for n in sizes]
        found = bootstrap(sample, settings)
        held += found.low <= 0.1 <= found.high
    assert 930 <= held <= 970


def test_a_real_difference_is_found_as_often_as_the_t_test_finds_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(5)
    found = np.zeros(3)
    for trial in range(300):
        sample = generator.normal(0.25, 1, 100)
        settings = SignificanceSettings(trials=400, seed=trial)
        found += [
            stats.ttest_1samp(sample, 0).pvalue <= 0.05,
            randomisation_test([sample], settings) <= 0.05,
            bootstrap([sample], settings).p <= 0.05,
        ]
    assert 0.6 < found[0] / 300 < 0.8
    assert np.abs(found[1:] - found[0]).max() <= 12


def test_the_effect_is_the_mean_in_standard_deviations() -> None:
    assert effect_size([np.array([1.0, 2.0, 3.0])]) == pytest.approx(2.0)
    one, two = np.array([0.0, 2.0]), np.array([0.0, 4.0, 8.0])  # variances 2 and 16
    assert effect_size([one, two]) == pytest.approx(2.5 / 9**0.5)
    assert effect_size([np.array([1.0])]) is None


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    p_values = [0.04, 0.005, 0.03, 0.5]
    assert correct_p_values(p_values, "holm") == pytest.approx([0.09, 0.02, 0.09, 0.5])
    assert correct_p_values(p_values, "bonferroni") == pytest.approx([0.16, 0.02, 0.12, 1.0])
    assert correct_p_values(p_values, "none") == p_values
    for correction in ("holm", "bonferroni", "none"):
        assert correct_p_values([], correction) == []
        assert correct_p_values([0.2], correction) == [0.2]


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_a_family_of_comparisons_has_one_false_positive_in_twenty_families(
    correction: Correction,
) -> None:
    generator = np.random.default_rng(0)
    families = generator.random((4000, 8))
    wrong = [min(correct_p_values(list(each), correction)) <= 0.05 for each in families]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 99}, "trials is 99, expected 100 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"confidence": 95}, "confidence is 95, expected between 0 and 1"),
        ({"correction": "fdr"}, "correction is 'fdr', expected holm, bonferroni or none"),
    ],
)
def test_settings_out_of_range_are_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SignificanceSettings(**wrong)
