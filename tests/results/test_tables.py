"""Tables of one's own runs: averages, comparisons and the notes that keep them honest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import job_args, record, write_job, write_sweep
from scipy import stats

from cim_dg import hparams as spaces
from cim_dg.errors import UserError
from cim_dg.results import build, domains, grids, render_text
from cim_dg.results.tables import Table, compare, method_order, same_baseline

DIGITS = ("+90%", "+80%", "new")


def _write(root: Path, values: Mapping[tuple[str, int, int], float], **more: object) -> None:
    """A job for each (method, test environment, trial) with this test accuracy."""
    for (method, env, trial), value in values.items():
        accuracies = [value if place == 2 * env else 0.5 for place in range(6)]
        args = job_args("NuisanceDigits", method, [env], trial) | more
        write_job(root / f"{method}-{env}-{trial}", args, [record(0, accuracies)])


def _values(methods: tuple[str, ...] = ("ERM", "CIM"), trials: int = 3) -> dict[tuple[str, int, int], float]:
    return {
        (method, env, trial): 0.6 + 0.05 * place + 0.02 * env + 0.01 * trial * (1 + place)
        for place, method in enumerate(methods)
        for env in range(3)
        for trial in range(trials)
    }


def _table(root: Path, **options: object) -> Table:
    (table,) = build.report([root], **options).tables  # type: ignore[arg-type]
    return table


def _text(table: Table) -> str:
    return render_text.render(grids.grids(table))


def test_average_and_differences_by_hand(tmp_path: Path) -> None:
    values = _values()
    _write(tmp_path, values)
    table = _table(tmp_path)
    assert table.name == "digits"
    assert list(table.columns) == [*DIGITS, "Average"]
    cim = next(row for row in table.rows if row.method == "CIM")
    trials = {m: [sum(values[m, env, trial] for env in range(3)) / 3 for trial in range(3)] for m in ("ERM", "CIM")}
    assert cim.cells["Average"].mean == pytest.approx(100 * sum(trials["CIM"]) / 3)
    expected = stats.ttest_rel(trials["CIM"], trials["ERM"])
    (actual,) = [comparison for comparison in table.comparisons if comparison.column == "Average"]
    assert actual.difference.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert actual.corrected == pytest.approx(expected.pvalue, rel=1e-6), "one method: nothing to correct"
    assert actual.verdict == "significantly higher"


def test_no_significant_difference_is_said(tmp_path: Path) -> None:
    values = {(method, env, trial): 0.6 for method in ("ERM", "CIM") for env in range(3) for trial in range(3)}
    values |= {("CIM", 0, 0): 0.7, ("CIM", 0, 1): 0.5}
    _write(tmp_path, values)
    verdicts = {comparison.column: comparison.verdict for comparison in _table(tmp_path).comparisons}
    assert verdicts["+90%"] == "no significant difference"
    assert verdicts["new"] == "equal in every trial"
    assert "no significant difference" in _text(_table(tmp_path))


def test_p_is_corrected_over_the_methods_of_a_column() -> None:
    trials = {
        ("ERM", "h"): {"a": {0: 0.50, 1: 0.51, 2: 0.52}},
        ("VIB", "h"): {"a": {0: 0.52, 1: 0.535, 2: 0.54}},
        ("CIM", "h"): {"a": {0: 0.55, 1: 0.57, 2: 0.56}},
        ("CIM", "other"): {"a": {0: 0.9, 1: 0.8, 2: 0.7}},
    }
    actual = {one.method: one for one in compare(trials, same_baseline(trials, "ERM"), ["a"])}
    assert set(actual) == {"VIB", "CIM"}, "a method is compared within its own harness only"
    small, large = sorted(actual.values(), key=lambda one: one.difference.p or 0)
    assert small.corrected == pytest.approx(2 * (small.difference.p or 0))
    assert large.corrected == pytest.approx(max(large.difference.p or 0, small.corrected or 0))


def test_trials_are_paired_by_their_number(tmp_path: Path) -> None:
    values = _values()
    del values["ERM", 0, 0]
    _write(tmp_path, values)
    table = _table(tmp_path)
    pairs = {comparison.column: comparison.difference.trials for comparison in table.comparisons}
    assert pairs == {"+90%": 2, "+80%": 3, "new": 3, "Average": 2}
    assert any("does not have the same trials everywhere" in note for note in table.notes)


def test_one_trial_says_so(tmp_path: Path) -> None:
    _write(tmp_path, _values(trials=1))
    table = _table(tmp_path)
    assert all(cell.interval is None for row in table.rows for cell in row.cells.values())
    assert {comparison.verdict for comparison in table.comparisons} == {"one trial: cannot be tested"}
    assert "there is one trial only" in _text(table)


def test_a_missing_environment_says_so(tmp_path: Path) -> None:
    _write(tmp_path, {key: value for key, value in _values().items() if key[:2] != ("CIM", 2)})
    table = _table(tmp_path)
    cim = next(row for row in table.rows if row.method == "CIM")
    assert set(cim.cells) == {"+90%", "+80%"}
    assert any("CIM (domainbed) has no selectable run with test environment new" in note for note in table.notes)
    assert "—" in _text(table)


def test_harnesses_have_rows_of_their_own(tmp_path: Path) -> None:
    _write(tmp_path / "real", _values())
    _write(tmp_path / "standin", _values())
    for folder in (tmp_path / "standin").iterdir():
        (folder / "provenance.json").write_text(json.dumps({"harness": "domainbed-standin"}))
    table = _table(tmp_path)
    assert [(row.method, row.source) for row in table.rows] == [
        (method, harness) for harness in ("domainbed", "domainbed-standin") for method in ("ERM", "CIM")
    ]
    assert any("not the real DomainBed" in note for note in table.notes)


def test_different_settings_are_warned_of(tmp_path: Path) -> None:
    _write(tmp_path / "a", _values(("ERM",)), steps=300)
    _write(tmp_path / "b", _values(("CIM",)), steps=900)
    assert any("differ in --steps (300, 900)" in note for note in _table(tmp_path).notes)


def test_runs_in_bf16_and_in_float32_are_told_apart(tmp_path: Path) -> None:
    """By the hparams of the records: a fork may have no --hparams."""
    hparams: dict[str, dict[str, Any]] = {"a": {}, "b": {"bf16": False}, "c": {"bf16": True}}
    for trial, (name, values) in enumerate(hparams.items()):
        write_job(tmp_path / name, job_args("NuisanceDigits", "CIM", [0], trial), [record(0, [0.5] * 6)], **values)
    warning = "Careful: of the runs of NuisanceDigits, some computed in bfloat16 (bf16), others in float32."
    assert warning not in build.report([tmp_path / "a", tmp_path / "b"]).tables[0].notes
    assert warning in _table(tmp_path).notes


def test_leave_one_out_that_cannot_be_served_says_what_to_run(tmp_path: Path) -> None:
    _write(tmp_path, _values())
    table = _table(tmp_path, rules=["leave-one-out"])
    assert all(not row.cells for row in table.rows)
    assert any("without --single_test_envs" in note for note in table.notes)


def test_a_folder_of_two_data_sets_has_two_tables(tmp_path: Path) -> None:
    _write(tmp_path / "digits", _values())
    write_sweep(tmp_path / "unheard", "Unheard", 3, trials=1, hparams_seeds=1, pairs=False)
    tables = build.report([tmp_path]).tables
    assert [(table.name, list(table.columns)) for table in tables] == [
        ("digits", [*DIGITS, "Average"]),
        ("unheard", ["env0", "env1", "env2", "Average"]),
    ]
    assert [table.name for table in build.report([tmp_path], names=["unheard"]).tables] == ["unheard"]


def test_vlcs_runs_stand_beside_the_published_rows(tmp_path: Path) -> None:
    write_sweep(tmp_path, "VLCS", 4, hparams_seeds=1, pairs=False)
    table = _table(tmp_path)
    assert [row.published for row in table.rows[:3]] == [False, False, True]
    assert list(table.columns) == ["Caltech", "LabelMe", "Pascal", "Sun", "Average"]
    assert not any(row.published for row in _table(tmp_path, with_published=False).rows)


def test_intervals_of_accuracies_stay_within_0_and_100(tmp_path: Path) -> None:
    values = {
        (method, env, trial): (0.7, 0.99, 1.0)[trial]
        for method in ("ERM", "CIM")
        for env in range(3)
        for trial in range(3)
    }
    _write(tmp_path, values)
    assert all(
        cell.interval and cell.interval[1] == 100 for row in _table(tmp_path).rows for cell in row.cells.values()
    )


def test_order_of_methods() -> None:
    assert method_order(["CIM_VIB", "CORAL", "VIB", "ERM", "CIM"], "ERM") == ["ERM", "CORAL", "VIB", "CIM", "CIM_VIB"]
    assert method_order(["CIM", "ERM"], "CIM") == ["CIM", "ERM"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "IRM"}, "--baseline IRM: no such method among the runs; there are CIM, ERM"),
        ({"names": ["mnist"]}, "--table mnist: there is no such table; choose from backgrounds, digits"),
    ],
)
def test_wrong_names_are_one_sentence(tmp_path: Path, options: dict, message: str) -> None:
    _write(tmp_path, _values())
    with pytest.raises(UserError, match=message):
        build.report([tmp_path], **options)


def test_nothing_to_read_is_one_sentence() -> None:
    with pytest.raises(UserError, match="at least one folder"):
        build.report([])


def test_environments_that_no_run_was_tested_on_have_no_column(tmp_path: Path) -> None:
    only = {(method, env, trial): value for (method, env, trial), value in _values().items() if env == 2}
    _write(tmp_path, only)
    table = _table(tmp_path)
    assert list(table.columns) == ["new"] and {one.column for one in table.comparisons} == {"new"}
    assert not any("has no" in note for note in table.notes)
    _write(tmp_path, {("ERM", 0, 0): 0.5})
    table = _table(tmp_path)
    assert list(table.columns) == ["+90%", "new"], "and no average, which is that of all"
    assert "CIM (domainbed) has no selectable run with test environment +90%, so it has no average." in table.notes


def test_other_data_of_a_dataset_is_another_table(tmp_path: Path) -> None:
    accuracies = {"ERM": (0.7, 0.3), "CIM": (0.8, 0.35)}
    data: list[dict[str, Any]] = [{"nuisance_seed": 1}, {"nuisance_shift": 4}]
    for name, values in accuracies.items():
        for options, value in zip(data, values, strict=True):
            for trial in range(2):
                args = job_args("NuisanceDigits", name, [2], trial)
                folder = tmp_path / f"{name}-{value}-{trial}"
                write_job(folder, args, [record(0, [value] * 6)], **options)
    report = build.report([tmp_path])
    means = {table.title: {row.method: row.cells["new"].mean for row in table.rows} for table in report.tables}
    of_default, of_shifted = "NuisanceDigits", "NuisanceDigits (nuisance_shift 4)"
    assert means == {
        f"{of_default}: test accuracy (%)": pytest.approx({"ERM": 70, "CIM": 80}),
        f"{of_shifted}: test accuracy (%)": pytest.approx({"ERM": 30, "CIM": 35}),
    }
    assert report.records and not report.records.report(), "no job is there twice"
    assert {table.title for table in build.report([tmp_path], names=["digits"]).tables} == means.keys()


def test_options_that_make_other_data_are_those_of_the_datasets() -> None:
    for dataset, prefix in (("NuisanceDigits", "nuisance_"), ("Spirograph", "spirograph_")):
        own = [name for name in spaces.space(f"datasets/{dataset}") if name.startswith(prefix)]
        assert sorted(domains.OPTIONS[dataset]) == sorted(name for name in own if not name.endswith("_seed"))
    assert domains.data_name("VLCS", {"nuisance_shift": 4}) == "VLCS"
    assert domains.data_name("Spirograph", {"spirograph_images": 50}) == "Spirograph (spirograph_images 50)"


def test_variants_tested_on_every_environment_have_an_average(tmp_path: Path) -> None:
    for method in ("CIM", "zero"):
        _write(tmp_path / method, {("CIM", env, 0): 0.6 + env / 10 for env in range(3)})
    (tmp_path / "variants.json").write_text(json.dumps({"CIM": "CIM", "zero": "λ = 0"}))
    table = _table(tmp_path)
    assert list(table.columns) == [*DIGITS, "Average"]
    assert {row.method: row.cells["Average"].mean for row in table.rows} == pytest.approx({"CIM": 70, "λ = 0": 70})
    for method in ("CIM", "zero"):
        (tmp_path / method / "CIM-2-0" / "results.jsonl").unlink()
    assert list(_table(tmp_path).columns) == ["+90%", "+80%"], "of two of three there is no average to compare"
