"""Methods over several datasets: the mean, and the probability of improvement over the baseline, with intervals.

Both are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (rliable):
intervals are 95% percentiles of the stratified bootstrap, which draws trials within each dataset. scipy computes them:
rliable 1.2.0 does not run with today's arch (8.0), and needs four more packages, whose import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cim_dg.results.grids import Grid
from cim_dg.results.statistics import CONFIDENCE
from cim_dg.results.tables import Table, Trials

RESAMPLES = 10_000
_FEW = 10  # trials
Estimate = tuple[float, float, float]  # the value, and the ends of its interval


@dataclass(frozen=True)
class Aggregate:
    """The methods of one harness over the datasets on which all of them have two trials or more.

    Attributes:
        selection: the selection rule, or the protocol, which names it.
        kind: the figure of each dataset, such as "Average".
        means: method -> mean over the datasets of the mean over trials, in percent.
        improvements: method -> the probability that it is better than the baseline, of a trial of each drawn at
            random, averaged over datasets; 0 to 1. Empty without the baseline.
        trials: the fewest trials of a method on a dataset.
        left_out: methods that lack a dataset.
    """

    source: str
    selection: str
    kind: str
    datasets: Sequence[str]
    baseline: str
    means: Mapping[str, Estimate]
    improvements: Mapping[str, Estimate]
    trials: int
    left_out: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The heading of the table."""
        return f"Over {len(self.datasets)} datasets: {self.kind} [{self.selection}]"


def aggregates(tables: Sequence[Table]) -> list[Aggregate]:
    """An aggregate for each harness, rule and kind of figure that tables of two datasets or more have."""
    scores: dict[tuple[str, str, str], dict[str, dict[str, Trials]]] = {}
    baselines: dict[tuple[str, str, str], str] = {}
    for table in tables:
        for dataset, (column, kind) in table.headlines.items():
            for (method, source), by_column in table.trials.items():
                key = source, table.protocol or table.selection, kind
                baselines[key] = table.baseline
                scores.setdefault(key, {}).setdefault(dataset, {})[method] = by_column.get(column, {})
    made = [_aggregate(key, of_key, baselines[key]) for key, of_key in scores.items()]
    return [aggregate for aggregate in made if aggregate is not None]


def _aggregate(
    key: tuple[str, str, str], scores: Mapping[str, Mapping[str, Trials]], baseline: str
) -> Aggregate | None:
    datasets = [name for name, methods in scores.items() if any(len(trials) > 1 for trials in methods.values())]
    names = list(dict.fromkeys(method for dataset in datasets for method in scores[dataset]))
    whole = [name for name in names if all(len(scores[dataset].get(name, {})) > 1 for dataset in datasets)]
    if len(datasets) < 2 or not whole:
        return None
    values = {
        name: [np.array(list(scores[dataset][name].values()), dtype=np.float64) for dataset in datasets]
        for name in whole
    }
    return Aggregate(
        *key,
        datasets,
        baseline,
        {name: mean_over_datasets([100 * trials for trials in of_method]) for name, of_method in values.items()},
        {
            name: probability_of_improvement(of_method, values[baseline])
            for name, of_method in values.items()
            if baseline in values and name != baseline
        },
        min(len(trials) for of_method in values.values() for trials in of_method),
        [name for name in names if name not in whole],
    )


def mean_over_datasets(trials: Sequence[np.ndarray]) -> Estimate:
    """The mean over datasets of the mean over each one's trials (n_d,), n_d >= 2, with its interval."""

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)

    return _bootstrapped(statistic, trials)


def probability_of_improvement(method: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> Estimate:
    """The mean over datasets of P(method > baseline) + P(equal) / 2, of a random trial of each, with its interval."""
    count = len(method)

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = [(x[..., :, None], y[..., None, :]) for x, y in zip(samples[:count], samples[count:], strict=True)]
        return np.mean([((x > y) + 0.5 * (x == y)).mean(axis=(-1, -2)) for x, y in pairs], axis=0)

    return _bootstrapped(statistic, [*method, *baseline])


def _bootstrapped(statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray]) -> Estimate:
    """The statistic of the samples, and the percentile interval of resamples of each by itself (fixed seed)."""
    from scipy.stats import bootstrap

    result = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        batch=1_000,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(statistic(*samples)), float(result.low), float(result.high)


def grid(aggregate: Aggregate) -> Grid:
    """The table of an aggregate, with notes that say what its figures are."""
    rows = [
        [
            [method],
            [aggregate.source],
            [f"{mean:.1f}", f"[{low:.1f}, {high:.1f}]"],
            _improvement(aggregate.improvements.get(method)),
        ]
        for method, (mean, low, high) in aggregate.means.items()
    ]
    notes = [
        f"Means over {', '.join(aggregate.datasets)}; 95% intervals by a stratified bootstrap of the trials "
        "(Agarwal et al. 2021).",
        f"P(better): the probability that a trial of the method is better than one of {aggregate.baseline}, averaged "
        "over datasets; 0.5 is no difference.",
    ]
    if aggregate.trials < _FEW:
        notes.append(
            f"With {aggregate.trials} trials these intervals are too narrow: in a simulation with four datasets they "
            "covered the truth in 82% of cases at 3 trials, in 88% at 5, in 92% at 10."
        )
    if aggregate.left_out:
        notes.append(f"Left out, without two trials on each dataset: {', '.join(aggregate.left_out)}.")
    header = ["Method", "From", "Mean", f"P(better than {aggregate.baseline})"]
    return Grid(aggregate.title, header, rows, [False] * len(rows), notes, [False, False, True, True])


def _improvement(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["—"]
    value, low, high = estimate
    return [f"{value:.2f}", f"[{low:.2f}, {high:.2f}]"]
