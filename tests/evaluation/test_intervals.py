from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from retrieval.evaluation.intervals import bootstrap_interval


def test_an_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).beta(0.5, 0.5, size=80)
    ours = bootstrap_interval([values], trials=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=5
    ).confidence_interval
    # Both ends have a standard error of some 0.0006 with so many draws.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_the_true_mean_is_inside_in_95_of_100_samples() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(400):
        low, high = bootstrap_interval([generator.random(100)], trials=400, seed=seed)
        inside += low <= 0.5 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_data_sets_have_the_same_weight_whatever_their_size() -> None:
    interval = bootstrap_interval([[0.0] * 1000, [1.0] * 2])
    assert interval == (0.5, 0.5)
    many = bootstrap_interval([np.random.default_rng(n).random(50).tolist() for n in range(16)])
    one = bootstrap_interval([np.random.default_rng(0).random(50).tolist()])
    # The mean of 16 equal data sets moves a quarter as much as one of them.
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(0.25, abs=0.04)


def test_a_seed_decides_and_memory_bounds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    first = bootstrap_interval([values], seed=7)
    assert bootstrap_interval([values], seed=7) == first
    assert bootstrap_interval([values], seed=8) != first
    monkeypatch.setattr("retrieval.evaluation.intervals._DRAWS_AT_ONCE", 60)
    assert bootstrap_interval([values], seed=7) == first
