"""Runs of WILDS with unlike settings: rows of their own, or one searched setting, and the number of settings tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_wilds_logs import write_wilds_log
from scipy import stats

from cim_dg.results import build
from cim_dg.results.grids import grids
from cim_dg.results.tables import Table

CONFIG = {"optimizer": "SGD", "lr": 1e-3, "weight_decay": 1e-4, "batch_size": 128, "n_epochs": 300, "model": "resnet50"}


def _table(folder: Path) -> Table:
    (table,) = build.report([folder], with_published=False).tables
    return table


def _worst(table: Table) -> dict[str, tuple[float, int | None]]:
    return {row.method: (row.cells["worst group"].mean, row.cells["worst group"].trials) for row in table.rows}


def test_four_learning_rates_and_fewer_epochs_are_not_one_method(tmp_path: Path) -> None:
    for seed in range(2):
        write_wilds_log(tmp_path / f"erm{seed}", "ERM", seed=seed, config=CONFIG, lower=0.05)
        for place, lr in enumerate((1e-2, 1e-3, 1e-4, 1e-5)):
            config = CONFIG | {"lr": lr, "n_epochs": 100}
            write_wilds_log(tmp_path / f"cim{seed}{lr}", "CIM", seed=seed, config=config, lower=place / 100)
    table = _table(tmp_path)
    assert _worst(table) == {
        "ERM": (pytest.approx(5), 2),
        "CIM (lr=0.01)": (pytest.approx(10), 2),
        "CIM (lr=0.001)": (pytest.approx(9), 2),
        "CIM (lr=0.0001)": (pytest.approx(8), 2),
        "CIM (lr=1e-05)": (pytest.approx(7), 2),
    }
    notes = "\n".join(table.notes)
    assert "CIM 4 in 4 rows, ERM 1; unequal" in notes
    assert "differ in n_epochs (100, 300)" in notes
    assert not any("more than once" in sentence for sentence in build.report([tmp_path]).left_out)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("optimizer", "SGD", "Adam"),
        ("weight_decay", 0.0, 1.0),
        ("n_epochs", 1, 2),
        ("batch_size", 8, 10**400),
        ("model_kwargs", {"pretrained": True}, {"pretrained": False}),
    ],
)
def test_whatever_differs_is_in_the_rows_name(tmp_path: Path, name: str, first: object, second: object) -> None:
    write_wilds_log(tmp_path / "a", "CIM", config=CONFIG | {name: first})
    write_wilds_log(tmp_path / "b", "CIM", config=CONFIG | {name: second})
    assert len(rows := _worst(_table(tmp_path))) == 2
    assert all(f"({name}=" in row for row in rows)


def test_weights_and_hyper_parameters_are_settings_too(tmp_path: Path) -> None:
    for place, (weights, cim_lambda) in enumerate((("random", 1.0), ("random", 3.0), ("IMAGENET1K_V1", 1.0))):
        hparams = {"cim_lambda": cim_lambda}
        write_wilds_log(tmp_path / str(place), "CIM", weights=weights, hparams=hparams, config=CONFIG)
    assert set(_worst(_table(tmp_path))) == {
        "CIM (weights=random, cim_lambda=1)",
        "CIM (weights=random, cim_lambda=3)",
        "CIM (weights=IMAGENET1K_V1, cim_lambda=1)",
    }


def test_a_search_is_one_row_of_the_best_on_validation(tmp_path: Path) -> None:
    """The draws depend on the trial, so that only the seed says which settings belong together."""
    for seed in range(2):
        write_wilds_log(tmp_path / f"erm{seed}", "ERM", seed=seed, config=CONFIG | {"hparams_seed": 0})
        for draw in range(3):
            config = CONFIG | {"hparams_seed": draw, "lr": 1e-3 / (1 + draw + seed)}
            hparams = {"cim_lambda": 1.0 + draw}
            lower = abs(draw - 1 - seed) / 100  # the best draw is 1 in trial 0, and 2 in trial 1
            folder = tmp_path / f"cim{seed}{draw}"
            write_wilds_log(folder, "CIM", seed=seed, config=config, hparams=hparams, lower=lower)
    report = build.report([tmp_path], with_published=False)
    (table,) = report.tables
    assert _worst(table) == {"ERM": (pytest.approx(10), 2), "CIM": (pytest.approx(10), 2)}
    assert any("Settings tried on" in note and "CIM 3, ERM 1; unequal" in note for note in table.notes)
    assert not any("more than once" in sentence for sentence in report.left_out)


def test_trials_are_paired_only_where_the_seed_draws_the_images(tmp_path: Path) -> None:
    for seed in range(3):
        for method, lower in (("ERM", 0.05), ("CIM", 0.0)):
            for frac in (1.0, 0.5):
                folder, worse = tmp_path / str(frac) / f"{method}{seed}", lower + 0.01 * seed * (1 + lower)
                write_wilds_log(folder, method, seed=seed, lower=worse, config=CONFIG | {"frac": frac})
    whole, part = (_table(tmp_path / str(frac)) for frac in (1.0, 0.5))
    assert [comparison.difference.paired for comparison in whole.comparisons] == [False, False]
    assert [comparison.difference.paired for comparison in part.comparisons] == [True, True]
    own, other = (list(whole.trials[method, "wilds"]["worst group"].values()) for method in ("CIM", "ERM"))
    expected = stats.ttest_ind(own, other, equal_var=False).pvalue
    (actual,) = [comparison for comparison in whole.comparisons if comparison.column == "worst group"]
    assert actual.difference.p == pytest.approx(expected, rel=1e-9)
    notes = [" ".join(note for grid in grids(table) for note in grid.notes) for table in (whole, part)]
    assert "Welch's t test, unpaired, since the images of training and test are the same" in notes[0]
    assert "paired over trials; p by a paired t test" in notes[1]


def test_a_row_is_compared_with_the_baseline_of_its_settings(tmp_path: Path) -> None:
    for seed in range(3):
        for lr, erm, cim in ((1e-3, 0.05, 0.01), (1e-4, 0.02, 0.04)):
            config = CONFIG | {"lr": lr}
            jitter = seed / 1000
            write_wilds_log(tmp_path / f"erm{seed}{lr}", "ERM", seed=seed, config=config, lower=erm)
            write_wilds_log(tmp_path / f"cim{seed}{lr}", "CIM", seed=seed, config=config, lower=cim + jitter)
        write_wilds_log(tmp_path / f"vib{seed}", "VIB", seed=seed, config=CONFIG | {"lr": 0.1})
    found = {
        comparison.method: comparison.difference.mean
        for comparison in _table(tmp_path).comparisons
        if comparison.column == "worst group"
    }
    assert found == {"CIM (lr=0.001)": pytest.approx(3.9), "CIM (lr=0.0001)": pytest.approx(-2.1)}
