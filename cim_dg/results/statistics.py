"""Uncertainty over few trials: intervals, paired differences, correction, and the number of trials needed.

The t distribution comes from scipy.special: importing scipy.stats and statsmodels takes longer than reading three
thousand jobs. The tests compare every function here with those two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
POWER = 0.8
BOOTSTRAP_FROM = (
    10  # trials; with fewer, a bootstrap interval is too short: at three trials it covers the truth 73% of the time
)
_RESAMPLES = 10_000
MOST_TRIALS = 10_000  # a larger number is not practical


@dataclass(frozen=True)
class Summary:
    """Mean, standard error (ddof 0, as DomainBed prints it), 95% interval (None for one trial) and number of trials."""

    mean: float
    stderr: float
    interval: tuple[float, float] | None
    trials: int


@dataclass(frozen=True)
class Difference:
    """The difference of a method to the baseline, paired over trials. p is uncorrected; None if there is no spread."""

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    spread: float
    trials: int


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
    """95% interval of the mean of (n,) values: Student's t below ten of them, the bootstrap (BCa, fixed seed) from ten
    on.

    None for one value, and for values without spread, which do not show how uncertain the mean is.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    if len(values) < BOOTSTRAP_FROM:
        low, high = t_interval(values)
        return float(low), float(high)
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    result = bootstrap((values,), np.mean, n_resamples=_RESAMPLES, confidence_level=CONFIDENCE, rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean along the last axis, (..., n) with n >= 2 -> low and high (...)."""
    n = values.shape[-1]
    centre = values.mean(axis=-1)
    half = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    return centre - half, centre + half


def paired(method: Sequence[float], baseline: Sequence[float], scale: float = 1.0) -> Difference:
    """The paired t test of two (n,) sequences that are matched trial by trial."""
    differences = scale * (np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))
    if differences.ndim != 1 or not len(differences):
        raise ValueError("at least one pair of trials is needed")
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    if spread < 1e-9 * scale:  # one trial, or the same difference in all: no test is possible
        return Difference(float(differences.mean()), None, None, 0.0, len(differences))
    return Difference(
        float(differences.mean()), interval(differences), float(t_test(differences)), spread, len(differences)
    )


def t_test(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of Student's t test that the mean along the last axis is 0, (..., n) -> (...)."""
    n = differences.shape[-1]
    t = differences.mean(axis=-1) / (differences.std(axis=-1, ddof=1) / math.sqrt(n))
    return 2 * special.stdtr(n - 1, -np.abs(t))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of (m,) p-values (Holm 1979): their family-wise error rate stays at the level."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def trials_needed(spread: float, difference: float, methods: int = 1) -> int | None:
    """The number of trials at which a paired t test detects a true `difference` with 80% power, if differences have the
    standard deviation `spread`.

    The level is 5% divided by the number of methods compared, Holm's level for the first of them. None if above
    10,000.
    """
    level = (1 - CONFIDENCE) / methods
    effect = abs(difference) / spread

    def power(n: int) -> float:
        critical = special.stdtrit(n - 1, 1 - level / 2)
        shift = effect * math.sqrt(n)
        return float(special.nctdtr(n - 1, shift, -critical) + 1 - special.nctdtr(n - 1, shift, critical))

    low, high = 1, 2
    while power(high) < POWER:
        if high >= MOST_TRIALS:
            return None
        low, high = high, min(2 * high, MOST_TRIALS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
