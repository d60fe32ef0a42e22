"""The data of the page's plots: the table's own figures, of the selected runs, against naive loops."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import write_sweep
from made_wilds_logs import write_wilds_log
from scipy import special, stats

from cim_dg.results import build, curves, page, plots
from cim_dg.results.records import Records
from cim_dg.results.tables import Table


def _report(folder: Path) -> tuple[Table, Records]:
    report = build.report([folder], with_published=False)
    assert report.records is not None
    (table,) = report.tables
    return table, report.records


def test_curves_of_waterbirds_end_at_the_tables_adjusted_average(tmp_path: Path) -> None:
    for seed in range(2):
        write_wilds_log(tmp_path / str(seed), "ERM", seed=seed, adjusted=(0.5, 0.96 - seed / 100))
    table, records = _report(tmp_path)
    frame = curves.learning(table, records)
    assert set(frame["panel"]) == set(table.columns) == {"worst group", "average"}
    for column in table.columns:
        at_selected = frame[(frame["panel"] == column) & (frame["step"] == 1)]["value"]
        assert at_selected.mean() == pytest.approx(table.rows[0].cells[column].mean)
    assert table.rows[0].cells["average"].mean == pytest.approx(95.5)


def test_curves_are_of_the_selected_runs_alone(tmp_path: Path) -> None:
    for seed, draw in itertools.product(range(2), range(3)):
        config = {"lr": 0.1**draw, "hparams_seed": draw}
        lower = abs(draw - 1) / 10
        write_wilds_log(tmp_path / f"{seed}{draw}", "CIM", seed=seed, lower=lower, config=config)
    table, records = _report(tmp_path)
    frame = curves.learning(table, records)
    assert {records.runs[run].hparams_seed for run in frame["run"]} == {1}
    assert len(frame) == 2 * 2 * 2  # columns, epochs, seeds
    shown = frame[(frame["panel"] == "worst group") & (frame["step"] == 1)]["value"].mean()
    assert shown == pytest.approx(table.rows[0].cells["worst group"].mean)


def test_curves_of_domainbed_have_the_selected_steps_figures(tmp_path: Path) -> None:
    write_sweep(tmp_path, "NuisanceDigits", 3, pairs=False)
    table, records = _report(tmp_path)
    frame = curves.learning(table, records)
    selected = curves._selected(table, records)
    assert set(frame["run"]) == set(selected["run"])
    for run, step, value in zip(selected["run"], selected["step"], selected["value"], strict=True):
        at = frame[(frame["run"] == run) & (frame["step"] == step) & (frame["panel"] == "test domain")]
        assert at["value"].tolist() == [pytest.approx(100 * value)]


def test_in_and_out_are_every_checkpoint_of_every_setting(tmp_path: Path) -> None:
    write_sweep(tmp_path, "NuisanceDigits", 3, trials=2, hparams_seeds=2, pairs=False)
    table, records = _report(tmp_path)
    points = curves.in_and_out(table, records)
    assert len(points) == 2 * 2 * 2 * 3 * 3  # methods, trials, settings, test domains, checkpoints
    assert set(points["panel"]) == {"+90%", "+80%", "new"}
    expected = set()
    for number, run in enumerate(records.runs):
        of_run = records.frame[records.frame["run"] == number]
        for _, checkpoint in of_run.groupby("step"):
            accuracy = dict(zip(checkpoint["split"], checkpoint["value"], strict=True))
            (env,) = run.test_envs
            inside = np.mean([accuracy[f"env{other}_out"] for other in range(3) if other != env])
            expected.add((run.algorithm, round(float(inside), 9), round(accuracy[f"env{env}_in"], 9)))
    found = zip(points["method"], points["inside"], points["outside"], strict=True)
    assert {(method, round(inside, 9), round(outside, 9)) for method, inside, outside in found} == expected
    svg = plots.in_and_out(table, points)
    assert svg is not None
    cim = points[(points["method"] == "CIM") & (points["panel"] == "new")]
    slope = stats.linregress(special.ndtri(cim["inside"]), special.ndtri(cim["outside"])).slope
    assert f"CIM: slope {slope:.2f}" in svg


def test_in_and_out_of_wilds_are_validation_and_the_ranked_figure(tmp_path: Path) -> None:
    write_wilds_log(tmp_path / "a", "CIM")
    table, records = _report(tmp_path)
    points = curves.in_and_out(table, records)
    assert set(points["panel"]) == {"worst group against val average"}
    pairs = [(round(x, 6), round(y, 6)) for x, y in zip(points["inside"], points["outside"], strict=True)]
    assert pairs == [(0.75, 0.6), (0.725, 0.1)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_expected_best_is_the_mean_over_all_choices(n: int) -> None:
    values = np.random.default_rng(n).uniform(size=n).tolist()
    actual = curves.expected_best(values)
    for k in range(1, n + 1):
        # The best on validation is the first, in the order of the list.
        choices = [values[min(chosen)] for chosen in itertools.combinations(range(n), k)]
        assert actual[k - 1] == pytest.approx(np.mean(choices))


def test_the_best_found_ends_at_the_table(tmp_path: Path) -> None:
    write_sweep(tmp_path, "NuisanceDigits", 3, pairs=False)
    table, records = _report(tmp_path)
    frame = curves.best_found(table, records)
    for row in table.rows:
        of_method = frame[(frame["method"] == row.method) & (frame["step"] == 3)]
        assert of_method["value"].mean() == pytest.approx(row.cells["Average"].mean)
        assert len(of_method) == 3 * 3


def test_the_best_found_of_a_search_in_wilds(tmp_path: Path) -> None:
    for draw in range(3):
        config = {"lr": 0.1**draw, "hparams_seed": draw}
        write_wilds_log(tmp_path / str(draw), "CIM", lower=draw / 20, config=config)
    table, records = _report(tmp_path)
    frame = curves.best_found(table, records)
    worst = [10, 5, 0]  # the best on validation first
    assert frame["value"].tolist() == pytest.approx([np.mean(worst), (10 + 10 + 5) / 3, 10])


def test_the_page_has_the_plots(tmp_path: Path) -> None:
    write_sweep(tmp_path, "NuisanceDigits", 3, pairs=False)
    html = page.render(build.report([tmp_path]))
    for caption in (
        "Learning curves of the selected runs",
        "In-domain against out-of-domain",
        "Settings tried against",
    ):
        assert caption in html
