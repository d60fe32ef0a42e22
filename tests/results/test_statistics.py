"""Intervals, tests and corrections: against scipy and statsmodels, and by their rates on synthetic trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cim_dg.results import statistics

DRAWS = 20_000


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_interval_and_test_are_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    method, baseline = rng.normal(80, 3, n), rng.normal(78, 3, n)
    actual = statistics.paired(method.tolist(), baseline.tolist())
    expected = stats.ttest_rel(method, baseline)
    assert actual.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert actual.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert actual.spread == pytest.approx(np.std(method - baseline, ddof=1))
    low, high = stats.t.interval(0.95, n - 1, loc=method.mean(), scale=stats.sem(method))
    assert statistics.summarise(method.tolist()).interval == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (10, 10), (3, 12)])
def test_the_unpaired_test_is_scipys_welch(n: int, m: int) -> None:
    rng = np.random.default_rng(n + m)
    method, baseline = rng.normal(80, 3, n), rng.normal(78, 1, m)
    actual = statistics.unpaired(method.tolist(), baseline.tolist())
    expected = stats.ttest_ind(method, baseline, equal_var=False)
    assert actual.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert actual.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert actual.df == pytest.approx(expected.df, rel=1e-9)
    assert (actual.trials, actual.paired) == (min(n, m), False)


@pytest.mark.parametrize("test", [statistics.paired, statistics.unpaired])
def test_p_is_below_the_level_exactly_where_the_interval_excludes_0(test) -> None:
    rng = np.random.default_rng(0)
    outcomes = [test(rng.normal(2, 1, 4), rng.normal(0, 1, 4)) for _ in range(300)]
    significant = [outcome.p < 0.05 for outcome in outcomes]
    assert significant == [not outcome.interval[0] <= 0 <= outcome.interval[1] for outcome in outcomes]
    assert 0 < sum(significant) < len(significant)


def test_mean_and_standard_error_are_domainbeds() -> None:
    values = [0.61, 0.67, 0.7]
    actual = statistics.summarise(values, scale=100)
    assert actual.mean == 100 * np.mean(values)
    assert actual.stderr == 100 * np.std(values / np.sqrt(3))
    assert actual.trials == 3


@pytest.mark.parametrize("n", [3, 5, 10])
def test_interval_covers_the_truth(n: int) -> None:
    values = np.random.default_rng(n).normal(1.5, 0.8, (DRAWS, n))
    low, high = statistics.t_interval(values)
    assert 0.945 <= np.mean((low <= 1.5) & (high >= 1.5)) <= 0.955


@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_a_known_difference_covers_it(n: int) -> None:
    """Trials share their difficulty (the split, the seed), as paired trials do: the difference is 2 points."""
    rng = np.random.default_rng(10 + n)
    trial = rng.normal(0, 5, (DRAWS, n))
    baseline = 75 + trial + rng.normal(0, 1, (DRAWS, n))
    method = 77 + trial + rng.normal(0, 1, (DRAWS, n))
    low, high = statistics.t_interval(method - baseline)
    assert 0.94 <= np.mean((low <= 2) & (high >= 2)) <= 0.96


@pytest.mark.parametrize(("n", "m", "spread"), [(10, 10, 3.0), (5, 5, 1.0), (5, 10, 2.0)])
def test_interval_of_independent_trials_covers_the_difference(n: int, m: int, spread: float) -> None:
    rng = np.random.default_rng(n * m)
    rows = [(rng.normal(77, spread, n), rng.normal(75, 1, m)) for _ in range(4_000)]
    intervals = [statistics.unpaired(*row).interval or (0.0, 0.0) for row in rows]
    assert 0.94 <= np.mean([low <= 2 <= high for low, high in intervals]) <= 0.967  # Welch's is a little wide for few


@pytest.mark.parametrize(("n", "methods"), [(3, 1), (3, 4), (5, 4)])
def test_corrected_tests_keep_their_rate(n: int, methods: int) -> None:
    """Under no difference at all, the chance of even one significant method among several is at most 5%."""
    rng = np.random.default_rng(n * methods)
    baseline = rng.normal(75, 1, (DRAWS, 1, n))
    ps = stats.ttest_1samp(rng.normal(75, 1, (DRAWS, methods, n)) - baseline, 0, axis=-1).pvalue
    # Holm rejects something exactly if the smallest p, times the number of methods, is below the level.
    rate = np.mean([statistics.holm(row).min() < 0.05 for row in ps])
    assert rate <= 0.054
    if methods == 1:
        assert rate >= 0.046


def test_a_bootstrap_would_not_do_for_few_trials() -> None:
    """Why the interval is Student's: the percentile bootstrap covers the truth in about three quarters of the cases."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2_000, 3))
    means = values[:, rng.integers(0, 3, (500, 3))].mean(axis=-1)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.85


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed: int) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    ps = np.random.default_rng(seed).uniform(0, 0.1, 6).round(2)  # rounded: ties
    np.testing.assert_allclose(statistics.holm(ps.tolist()), multitest.multipletests(ps, method="holm")[1])


def test_holm_of_no_test() -> None:
    assert len(statistics.holm([])) == 0


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("tests", [1, 4])
def test_trials_needed_is_statsmodels(spread: float, tests: int) -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    alpha = 0.05 / tests
    paired = power.TTestPower().solve_power(effect_size=1 / spread, alpha=alpha, power=0.8)
    assert statistics.trials_needed(spread, 1.0, tests) == np.ceil(paired)
    # Two groups whose variances are half that of a difference of two independent trials.
    effect = np.sqrt(2) / spread
    unpaired = power.TTestIndPower().solve_power(effect_size=effect, alpha=alpha, power=0.8)
    assert statistics.trials_needed(spread, 1.0, tests, paired=False) == np.ceil(unpaired)


def test_trials_needed_at_the_ends() -> None:
    assert statistics.trials_needed(1e-6, 1.0) == 2
    assert statistics.trials_needed(1e6, 1.0) is None


def test_the_uncertainty_of_the_trials_needed_is_that_of_the_spread() -> None:
    differences = np.array([1.0, 2.5, -0.5, 3.0])
    tested = statistics.paired(differences, np.zeros(4))
    actual = statistics.needed(tested, 1.0)
    variance = differences.var(ddof=1)
    low, high = (np.sqrt(3 * variance / stats.chi2.ppf(tail, 3)) for tail in (0.975, 0.025))
    expected = [statistics.trials_needed(spread, 1.0) for spread in (np.sqrt(variance), low, high)]
    assert actual is not None and [actual.estimate, actual.low, actual.high] == expected


@pytest.mark.parametrize("n", [3, 10])
def test_the_trials_truly_needed_are_within_their_interval(n: int) -> None:
    """At three trials the interval is as wide as the estimate is worthless, and it says so."""
    truth = statistics.trials_needed(2.0, 1.0) or 0
    rng = np.random.default_rng(n)
    found = [statistics.needed(statistics.paired(rng.normal(0, 2, n), np.zeros(n)), 1.0) for _ in range(1_000)]
    ranges = [(needed.low or 1e9, needed.high or 1e9) for needed in found if needed is not None]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in ranges]) <= 0.98
    assert bool(np.median([high / low for low, high in ranges]) > 50) is (n == 3)


def test_one_trial_has_no_interval_and_no_test() -> None:
    assert statistics.summarise([0.5]).interval is None
    for test in (statistics.paired, statistics.unpaired):
        actual = test([0.6], [0.5])
        assert (actual.mean, actual.interval, actual.p) == (pytest.approx(0.1), None, None)
        assert statistics.needed(actual, 1.0) is None
    assert statistics.unpaired([0.6], [0.5, 0.7]).p is None


def test_no_spread_has_no_interval_and_no_test() -> None:
    assert statistics.summarise([0.5, 0.5, 0.5]).interval is None
    actual = statistics.paired([0.7, 0.6, 0.5], [0.6, 0.5, 0.4], scale=100)
    assert (actual.mean, actual.interval, actual.p) == (pytest.approx(10), None, None)
    actual = statistics.unpaired([0.7, 0.7], [0.6, 0.6], scale=100)
    assert (actual.mean, actual.interval, actual.p) == (pytest.approx(10), None, None)


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_no_trials_is_an_error(values: list) -> None:
    with pytest.raises(ValueError, match="one value per trial"):
        statistics.summarise(values)
    with pytest.raises(ValueError, match="pair"):
        statistics.paired(values, values)
    with pytest.raises(ValueError, match="one trial of each"):
        statistics.unpaired(values, values)
