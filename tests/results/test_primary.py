"""The primary comparison: declared in a sweep, recorded before it runs, and tested alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_sweeps import job_args, record, write_job

from cim_dg import cli
from cim_dg.errors import UserError
from cim_dg.results import build, primary, render_text, statistics
from cim_dg.results.primary import Primary
from cim_dg.results.tables import compare, same_baseline
from cim_dg.sweeps import spec

SWEEP = """
title: Digits
harness: domainbed
datasets: [NuisanceDigits]
algorithms: [ERM, VIB, CIM]
n_trials: 3
selection: iid
data: []
table: digits
primary: {method: CIM, baseline: ERM, column: new}
"""


def _write(root: Path, dataset: str = "NuisanceDigits", envs: int = 3) -> None:
    for place, method in enumerate(("ERM", "VIB", "CIM")):
        for env in range(envs):
            for trial in range(3):
                value = 0.6 + 0.05 * place + 0.01 * trial * (1 + place)
                accuracies = [value if index == 2 * env else 0.5 for index in range(2 * envs)]
                args = job_args(dataset, method, [env], trial)
                write_job(root / f"{method}-{env}-{trial}", args, [record(0, accuracies)])


def test_it_is_tested_alone_and_all_others_together(tmp_path: Path) -> None:
    _write(tmp_path)
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "iid", 0)
    (table,) = build.report([tmp_path]).tables
    (alone,) = [comparison for comparison in table.comparisons if comparison.is_primary]
    assert (alone.method, alone.column) == ("CIM", "new")
    assert alone.corrected == alone.difference.p
    others = [comparison for comparison in table.comparisons if not comparison.is_primary]
    assert len(others) == 2 * 4 - 1
    expected = statistics.holm([comparison.difference.p or 1.0 for comparison in others])
    assert [comparison.corrected for comparison in others] == pytest.approx(expected.tolist())
    tests = {comparison.is_primary: comparison.needed for comparison in (alone, others[0])}
    assert tests[True] == statistics.needed(alone.difference, 1.0, 1)
    assert tests[False] == statistics.needed(others[0].difference, 1.0, len(others))
    text = render_text.render(build.report([tmp_path]).grids())
    assert any("declared by the sweep before any of its runs had finished" in note for note in table.notes)
    assert "(primary)" in text and "all others are corrected together (Holm)" in text


@pytest.mark.parametrize(
    ("rules", "baseline", "shown"), [(["iid"], "ERM", True), (["oracle"], None, False), (["iid"], "VIB", False)]
)
def test_it_is_of_its_rule_and_its_baseline(
    tmp_path: Path, rules: list[str], baseline: str | None, shown: bool
) -> None:
    _write(tmp_path)
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "iid", 0)
    (table,) = build.report([tmp_path], rules=rules, baseline=baseline).tables
    assert any(comparison.is_primary for comparison in table.comparisons) is shown


def test_it_is_of_its_dataset_alone(tmp_path: Path) -> None:
    for dataset in ("VLCS", "VLCSMini"):
        _write(tmp_path / dataset, dataset, envs=4)
    primary.declare(tmp_path / "VLCS", Primary("CIM", "ERM", "Average", "VLCS"), "iid", 0)
    tables = {table.dataset: table for table in build.report([tmp_path]).tables}
    primaries = {name: [one.column for one in table.comparisons if one.is_primary] for name, table in tables.items()}
    assert primaries == {"VLCS": ["Average"], "VLCSMini": []}


def test_it_is_of_a_wilds_dataset_alone() -> None:
    declared = primary.Declared("CIM", "ERM", "worst group", "waterbirds", "worst-group", 0)
    tables = ["subgroups", "Waterbirds", "CelebA"], ["waterbirds", "Waterbirds (format)"], ["celeba", "CelebA"]
    assert [declared.is_in(names, "worst-group", "ERM") for names in tables] == [True, True, False]


def test_a_column_that_is_not_there_is_said(tmp_path: Path) -> None:
    _write(tmp_path)
    primary.declare(tmp_path, Primary("CIM", "ERM", "nowhere"), "iid", 3)
    (table,) = build.report([tmp_path]).tables
    assert any("in the column nowhere, is not in this table" in note for note in table.notes)


def test_its_baseline_is_the_tables(tmp_path: Path) -> None:
    _write(tmp_path)
    primary.declare(tmp_path, Primary("CIM", "VIB", "new"), "iid", 0)
    assert build.report([tmp_path]).tables[0].baseline == "VIB"


def test_a_second_declaration_changes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "iid", 0)
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "iid", 9)
    primary.declare(tmp_path, Primary("CIM", "ERM", "new"), "oracle", 9)
    primary.declare(tmp_path, Primary("CIM", "ERM", "new", "NuisanceDigits"), "iid", 9)  # once it was not recorded
    assert (primary.read(tmp_path).selection, primary.read(tmp_path).finished_before) == ("iid", 0)
    with pytest.raises(UserError, match="declares CIM against ERM in new"):
        primary.declare(tmp_path, Primary("VIB", "ERM", "new"), "iid", 9)


@pytest.mark.parametrize("content", ["[1]", "{", '{"method": "CIM"}', '{"method": 1, "baseline": "a", "column": "b"}'])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    _write(tmp_path)
    (tmp_path / "primary.json").write_text(content)
    with pytest.raises(UserError, match=r"primary\.json"):
        build.report([tmp_path])


def test_other_sources_have_families_of_their_own() -> None:
    columns = {"a": {0: 0.5, 1: 0.52, 2: 0.51}, "b": {0: 0.4, 1: 0.45, 2: 0.44}}
    higher = {
        column: {trial: value + 0.01 * (1 + trial) for trial, value in row.items()} for column, row in columns.items()
    }
    trials = {("ERM", "h"): columns, ("CIM", "h"): higher, ("ERM", "i"): columns, ("CIM", "i"): higher}
    found = compare(trials, same_baseline(trials, "ERM"), ["a", "b"], primary=Primary("CIM", "ERM", "a"))
    assert all(comparison.corrected == comparison.difference.p for comparison in found if comparison.is_primary)
    assert [(one.source, one.column) for one in found if one.is_primary] == [("h", "a"), ("i", "a")]


def test_a_sweep_records_it_before_its_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    seen = []
    monkeypatch.setattr(
        "cim_dg.sweeps.plan.run", lambda plan, folder: seen.append((folder / "primary.json").read_text())
    )
    monkeypatch.setattr("cim_dg.sweeps.command._show", lambda *arguments: None)
    arguments = ["sweep", str(file), "--output_dir", str(tmp_path / "runs")]
    assert cli.main([*arguments, "--dry_run"]) == 0
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert cli.main(arguments) == 0
    assert not (tmp_path / "runs").exists()
    assert cli.main([*arguments, "--skip_confirmation"]) == 0
    (text,) = seen
    assert json.loads(text) == {
        **{"method": "CIM", "baseline": "ERM", "column": "new", "dataset": "NuisanceDigits"},
        **{"selection": "iid", "finished_before": 0},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "SCL"}, "the method of primary is 'SCL'; accepted is one of ERM, VIB, CIM"),
        ({"baseline": "IRM"}, "the baseline of primary is 'IRM'"),
        ({"dataset": "VLCS"}, "the dataset of primary is 'VLCS'; accepted is one of NuisanceDigits"),
        ({"colum": "new"}, "colum"),
    ],
)
def test_wrong_declarations_are_one_sentence(tmp_path: Path, change: dict, message: str) -> None:
    file = tmp_path / "sweep.yaml"
    entries = {"method": "CIM", "baseline": "ERM", "column": "new"} | change
    file.write_text(SWEEP.replace("{method: CIM, baseline: ERM, column: new}", json.dumps(entries)))
    with pytest.raises(UserError, match=message):
        spec.load(str(file))


def test_methods_may_be_left_out_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    assert spec.load(str(file), {"algorithms": ["VIB"]}).primary == Primary("CIM", "ERM", "new")
