"""Aggregates over datasets: against naive loops, by their coverage, and in the tables and the page."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job, write_sweep
from made_wilds_logs import write_wilds_log
from scipy import stats

from cim_dg.results import aggregates, build, page, render_csv, render_text


def _scores(seed: int, trials: int = 5, datasets: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(70, 1, (trials, datasets)) + 5 * np.arange(datasets)


def test_values_and_intervals_against_scipys_u_and_a_naive_bootstrap() -> None:
    """The intervals are from other random numbers, so they agree within the error of the resamples."""
    x, y = _scores(0), _scores(1) - 0.5
    rng = np.random.default_rng(1)

    def redraw(scores: np.ndarray) -> np.ndarray:
        return np.column_stack([rng.choice(column, len(column)) for column in scores.T])

    def probability(x: np.ndarray, y: np.ndarray) -> float:
        """U is the number of pairs in which x is larger (Mann and Whitney)."""
        u = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x.T, y.T, strict=True)]
        return float(np.mean(u))

    mean = aggregates.mean_over_datasets(list(x.T))
    assert mean[0] == pytest.approx(x.mean())
    assert mean[1:] == pytest.approx(np.percentile([redraw(x).mean() for _ in range(4_000)], [2.5, 97.5]), abs=0.03)
    better = aggregates.probability_of_improvement(list(x.T), list(y.T))
    assert better[0] == pytest.approx(probability(x, y))

    def counted(x: np.ndarray, y: np.ndarray) -> float:  # as `probability`, which takes a hundred times as long
        return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))

    assert counted(x, y) == pytest.approx(probability(x, y))
    resampled = [counted(redraw(x), redraw(y)) for _ in range(1_000)]
    assert better[1:] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.06)


def test_equal_trials_count_half() -> None:
    same = [np.array([0.5, 0.5]), np.array([0.7, 0.7])]
    assert aggregates.probability_of_improvement(same, same) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("trials", "lowest", "highest"), [(3, 0.78, 0.86), (20, 0.915, 0.96)])
def test_intervals_cover_the_truth_with_enough_trials(
    trials: int, lowest: float, highest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few they do not, as the table says: the bootstrap's variance is that of ddof 0."""
    monkeypatch.setattr(aggregates, "RESAMPLES", 400)
    rng = np.random.default_rng(trials)
    spreads = np.array([1, 2, 3, 4])
    rows = [aggregates.mean_over_datasets(list(rng.normal(0, spreads, (trials, 4)).T)) for _ in range(600)]
    assert lowest <= np.mean([low <= 0 <= high for _, low, high in rows]) <= highest


def _write(root: Path, methods: tuple[str, ...] = ("ERM", "CIM")) -> None:
    for dataset, envs in (("VLCS", 4), ("NuisanceDigits", 3)):
        for place, method in enumerate(methods):
            for env in range(envs):
                for trial in range(3):
                    value = 0.6 + 0.05 * place + 0.01 * ((trial + place) % 3) + 0.02 * (envs == 3)
                    accuracies = [value if index == 2 * env else 0.5 for index in range(2 * envs)]
                    args = job_args(dataset, method, [env], trial)
                    write_job(root / f"{dataset}-{method}-{env}-{trial}", args, [record(0, accuracies)])


def test_two_datasets_have_an_aggregate_in_text_and_page(tmp_path: Path) -> None:
    _write(tmp_path)
    write_sweep(tmp_path / "one", "VLCS", 4, algorithms=["VIB"], hparams_seeds=1, pairs=False)
    report = build.report([tmp_path], with_published=False)
    (aggregate,) = report.over_datasets
    assert sorted(aggregate.datasets) == ["NuisanceDigits", "VLCS"]
    assert aggregate.left_out == ["VIB"]
    assert {name: mean for name, (mean, _, _) in aggregate.means.items()} == {
        "ERM": pytest.approx(62),
        "CIM": pytest.approx(67),
    }
    assert aggregate.improvements == {"CIM": (1.0, 1.0, 1.0)}
    text = render_text.render(report.grids())
    assert "Over 2 datasets: average over the test domains [iid]" in text
    assert "With 3 trials these intervals are too narrow" in text and "Left out" in text
    html = page.render(report)
    assert 'id="datasets-1"' in html and "P(better than ERM)" in html
    lines = list(csv.DictReader(render_csv.render(report).splitlines()))
    lines = [line for line in lines if line["table"] == render_csv.OVER_DATASETS]
    assert [line["method"] for line in lines] == list(aggregate.means)
    for line in lines:
        assert line["dataset"] == ", ".join(aggregate.datasets) and line["column"] == aggregate.kind
        assert tuple(float(line[name]) for name in ("value", "low", "high")) == aggregate.means[line["method"]]
        assert (line["source"], line["selection"], line["trials"]) == (aggregate.source, "iid", "3")
    assert [(line["baseline"], line["p_better"], line["p_better_low"]) for line in lines] == [
        ("ERM", "1.0", "1.0") if line["method"] == "CIM" else ("", "", "") for line in lines
    ]


def test_one_dataset_or_one_trial_has_none(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", "VLCS", 4, hparams_seeds=1, pairs=False)
    write_sweep(tmp_path / "b", "NuisanceDigits", 3, hparams_seeds=1, pairs=False, trials=1)
    assert build.report([tmp_path]).over_datasets == []


def test_worst_groups_of_wilds_datasets_are_one_figure(tmp_path: Path) -> None:
    for place, counts in enumerate(((10, 10, 10, 10), (20, 20, 20, 20))):
        for seed in range(3):
            for method, lower in (("ERM", 0.05), ("CIM", 0.0)):
                folder = tmp_path / f"{place}{seed}{method}"
                write_wilds_log(folder, method, counts, seed, lower=lower + 0.002 * seed * (place + 1))
    (aggregate,) = build.report([tmp_path]).over_datasets
    assert (aggregate.kind, len(aggregate.datasets)) == ("test worst group", 2)
    assert aggregate.means["CIM"][0] == pytest.approx(10 - 0.3)
