"""Uncertainty over few trials: Student's t intervals and tests, paired or Welch's, correction, and trials needed.

The t and chi-squared distributions come from scipy.special: importing scipy.stats and statsmodels takes longer than
reading three thousand jobs. The tests compare every function here with those two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
POWER = 0.8
MOST_TRIALS = 10_000  # a larger number is not practical
_TWO_SIDED = (1 + CONFIDENCE) / 2
_NO_SPREAD = 1e-9
Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Summary:
    """Mean, standard error (ddof 0, as DomainBed prints it), 95% interval (None for one trial) and number of trials."""

    mean: float
    stderr: float
    interval: tuple[float, float] | None
    trials: int


@dataclass(frozen=True)
class Difference:
    """The difference of a method to the baseline. p is uncorrected, and below 5% exactly if the interval excludes 0.

    Attributes:
        mean, interval, p: the difference, its 95% interval and p; None without spread.
        spread: the standard deviation of a difference of two trials: of the pairs' differences, or, unpaired, of two
            independent trials.
        df: the degrees of freedom of the test and of `spread`; 0 if there is no test.
        trials: of the method that has fewer.
        paired: whether trials were matched.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    spread: float
    df: float
    trials: int
    paired: bool = True


@dataclass(frozen=True)
class Needed:
    """A number of trials, and what it is at the ends of the spread's 95% interval; None stands for above 10,000."""

    estimate: int | None
    low: int | None
    high: int | None


def summarise(values: Sequence[float], scale: float = 1.0) -> Summary:
    """Summary of one value per trial, times `scale` (100 for a percentage)."""
    mean, stderr = mean_and_stderr(values, scale)
    array = np.asarray(values, dtype=np.float64)
    low_high = interval(array)
    return Summary(mean, stderr, low_high and (scale * low_high[0], scale * low_high[1]), len(array))


def mean_and_stderr(values: Sequence[float], scale: float = 1.0) -> tuple[float, float]:
    """Mean and standard error (ddof 0) of one value per trial, (n,) with n >= 1, times `scale`.

    The order of operations is DomainBed's, so that they agree with its tables to the last digit.

    Raises:
        ValueError: `values` is empty, or not one value per trial.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"one value per trial is needed, not an array of shape {array.shape}")
    return float(scale * np.mean(array)), float(scale * np.std(array / np.sqrt(len(array))))


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's t interval (95%) of the mean of (n,) values.

    None for one value, and for values without spread, which do not show how uncertain the mean is.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    low, high = t_interval(values)
    return float(low), float(high)


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean along the last axis, (..., n) with n >= 2 -> low and high (...)."""
    n = values.shape[-1]
    centre = values.mean(axis=-1)
    half = special.stdtrit(n - 1, _TWO_SIDED) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    return centre - half, centre + half


def paired(method: Values, baseline: Values, scale: float = 1.0) -> Difference:
    """The paired t test of two (n,) sequences that are matched trial by trial."""
    differences = scale * (np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))
    if differences.ndim != 1 or not len(differences):
        raise ValueError("at least one pair of trials is needed")
    n = len(differences)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    mean = float(differences.mean())
    if spread < _NO_SPREAD * scale:  # one trial, or the same difference in all: no test is possible
        return Difference(mean, None, None, 0.0, 0.0, n)
    return _tested(mean, spread / math.sqrt(n), spread, n - 1, n)


def unpaired(method: Values, baseline: Values, scale: float = 1.0) -> Difference:
    """Welch's t test of two sequences, (n,) and (m,), of independent trials."""
    groups = [scale * np.asarray(values, dtype=np.float64) for values in (method, baseline)]
    if any(group.ndim != 1 or not len(group) for group in groups):
        raise ValueError("at least one trial of each is needed")
    mean, fewest = float(groups[0].mean() - groups[1].mean()), min(map(len, groups))
    variances = [float(group.var(ddof=1)) if fewest > 1 else 0.0 for group in groups]
    if sum(variances) < (_NO_SPREAD * scale) ** 2:
        return Difference(mean, None, None, 0.0, 0.0, fewest, paired=False)
    shares = [variance / len(group) for variance, group in zip(variances, groups, strict=True)]
    # Welch-Satterthwaite.
    df = sum(shares) ** 2 / sum(share**2 / (len(group) - 1) for share, group in zip(shares, groups, strict=True))
    return _tested(mean, math.sqrt(sum(shares)), math.sqrt(sum(variances)), df, fewest, paired=False)


def _tested(mean: float, stderr: float, spread: float, df: float, trials: int, paired: bool = True) -> Difference:
    half = float(special.stdtrit(df, _TWO_SIDED)) * stderr
    p = float(2 * special.stdtr(df, -abs(mean) / stderr))
    return Difference(mean, (mean - half, mean + half), p, spread, df, trials, paired)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of (m,) p-values (Holm 1979): their family-wise error rate stays at the level."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def needed(tested: Difference, difference: float, tests: int = 1) -> Needed | None:
    """How many trials it would take to detect a true `difference`, and how far that is known; None without a spread.

    The uncertainty is that of the spread: the 95% interval of a standard deviation with `df` degrees of freedom,
    by the chi-squared distribution.
    """
    if tested.spread <= 0:
        return None
    factors = [math.sqrt(tested.df / special.chdtri(tested.df, tail)) for tail in (1 - _TWO_SIDED, _TWO_SIDED)]
    low, high = (trials_needed(factor * tested.spread, difference, tests, tested.paired) for factor in factors)
    return Needed(trials_needed(tested.spread, difference, tests, tested.paired), low, high)


def trials_needed(spread: float, difference: float, tests: int = 1, paired: bool = True) -> int | None:
    """The number of trials (of each method) at which a t test detects a true `difference` with 80% power.

    Args:
        spread: the standard deviation of a difference of two trials, paired or independent (`Difference.spread`).
        tests: the number of tests that share the level of 5% equally, which is Holm's level for the first of them.
        paired: whether trials are matched; if not, it is the t test of two groups of one variance.

    Returns:
        The number, or None if above 10,000.
    """
    level = (1 - CONFIDENCE) / tests
    effect = abs(difference) / spread

    def power(n: int) -> float:
        df = n - 1 if paired else 2 * (n - 1)
        critical = special.stdtrit(df, 1 - level / 2)
        shift = effect * math.sqrt(n)
        return float(special.nctdtr(df, shift, -critical) + 1 - special.nctdtr(df, shift, critical))

    low, high = 1, 2
    while power(high) < POWER:
        if high >= MOST_TRIALS:
            return None
        low, high = high, min(2 * high, MOST_TRIALS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
