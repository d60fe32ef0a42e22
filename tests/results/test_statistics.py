"""Intervals, tests and corrections: against scipy and statsmodels, and by their rates on synthetic trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cim_dg.results import statistics

DRAWS = 20_000


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_interval_and_test_are_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    method, baseline = rng.normal(80, 3, n), rng.normal(78, 3, n)
    actual = statistics.paired(method.tolist(), baseline.tolist())
    expected = stats.ttest_rel(method, baseline)
    assert actual.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert actual.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert actual.spread == pytest.approx(np.std(method - baseline, ddof=1))


def test_mean_and_standard_error_are_domainbeds() -> None:
    values = [0.61, 0.67, 0.7]
    actual = statistics.summarise(values, scale=100)
    assert actual.mean == 100 * np.mean(values)
    assert actual.stderr == 100 * np.std(values / np.sqrt(3))
    assert actual.trials == 3


@pytest.mark.parametrize("n", [3, 5])
def test_interval_covers_the_truth(n: int) -> None:
    values = np.random.default_rng(n).normal(1.5, 0.8, (DRAWS, n))
    low, high = statistics.t_interval(values)
    assert 0.94 <= np.mean((low <= 1.5) & (high >= 1.5)) <= 0.96


@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_a_known_difference_covers_it(n: int) -> None:
    """Trials share their difficulty (the split, the seed), as paired trials do: the difference is 2 points."""
    rng = np.random.default_rng(10 + n)
    trial = rng.normal(0, 5, (DRAWS, n))
    baseline = 75 + trial + rng.normal(0, 1, (DRAWS, n))
    method = 77 + trial + rng.normal(0, 1, (DRAWS, n))
    low, high = statistics.t_interval(method - baseline)
    assert 0.94 <= np.mean((low <= 2) & (high >= 2)) <= 0.96


@pytest.mark.parametrize(("n", "methods"), [(3, 1), (3, 4), (5, 4)])
def test_corrected_tests_keep_their_rate(n: int, methods: int) -> None:
    """Under no difference at all, the chance of even one significant method among several is at most 5%."""
    rng = np.random.default_rng(n * methods)
    baseline = rng.normal(75, 1, (DRAWS, 1, n))
    ps = statistics.t_test(rng.normal(75, 1, (DRAWS, methods, n)) - baseline)
    # Holm rejects something exactly if the smallest p, times the number of methods, is below the level.
    rate = np.mean([statistics.holm(row).min() < 0.05 for row in ps])
    assert rate <= 0.054
    if methods == 1:
        assert rate >= 0.046


def test_a_percentile_bootstrap_would_not_do_at_three_trials() -> None:
    """Why the interval is Student's: the shortcut covers the truth in about three quarters of the cases."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2_000, 3))
    means = values[:, rng.integers(0, 3, (500, 3))].mean(axis=-1)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.85


def test_bootstrap_from_ten_trials_on() -> None:
    values = np.random.default_rng(1).exponential(1.0, 12)
    low, high = statistics.interval(values) or (0.0, 0.0)
    t_low, _ = statistics.t_interval(values)
    assert t_low < low < values.mean() < high
    assert high - values.mean() > values.mean() - low, "skewed data have a skewed interval, which Student's cannot have"
    assert (low, high) == statistics.interval(values), "the same data, the same interval"


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed: int) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    ps = np.random.default_rng(seed).uniform(0, 0.1, 6).round(2)  # rounded: ties
    np.testing.assert_allclose(statistics.holm(ps.tolist()), multitest.multipletests(ps, method="holm")[1])


def test_holm_of_no_test() -> None:
    assert len(statistics.holm([])) == 0


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("methods", [1, 4])
def test_trials_needed_is_statsmodels(spread: float, methods: int) -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    actual = statistics.trials_needed(spread, 1.0, methods)
    expected = power.TTestPower().solve_power(effect_size=1 / spread, alpha=0.05 / methods, power=0.8)
    assert actual == np.ceil(expected)


def test_trials_needed_at_the_ends() -> None:
    assert statistics.trials_needed(1e-6, 1.0) == 2
    assert statistics.trials_needed(1e6, 1.0) is None


def test_one_trial_has_no_interval_and_no_test() -> None:
    assert statistics.summarise([0.5]).interval is None
    actual = statistics.paired([0.6], [0.5])
    assert (actual.mean, actual.interval, actual.p) == (pytest.approx(0.1), None, None)


def test_no_spread_has_no_interval_and_no_test() -> None:
    assert statistics.summarise([0.5, 0.5, 0.5]).interval is None
    actual = statistics.paired([0.7, 0.6, 0.5], [0.6, 0.5, 0.4], scale=100)
    assert (actual.mean, actual.interval, actual.p) == (pytest.approx(10), None, None)


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_no_trials_is_an_error(values: list) -> None:
    with pytest.raises(ValueError, match="one value per trial"):
        statistics.summarise(values)
    with pytest.raises(ValueError, match="pair"):
        statistics.paired(values, values)
