"""WILDS' log folders: reading, selection under the three rules, the table of subgroups and its column on group
labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cim_dg import cli
from cim_dg.results import build, published
from cim_dg.results.grids import grids
from cim_dg.results.read import read
from cim_dg.results.render_text import render
from cim_dg.results.tables import Row, Table

GROUPS = (
    "y:landbird_background:land",
    "y:landbird_background:water",
    "y:waterbird_background:land",
    "y:waterbird_background:water",
)
OFFICIAL = (2255, 2255, 642, 642)
SHARES = (3498, 184, 56, 1057)

# The head of a log.txt of run_expt.py, shortened.
HEAD = """Dataset: waterbirds
Algorithm: groupDRO
Root dir: data
Loader kwargs: {{'num_workers': 4}}
Uniform over groups: {uniform}
Batch size: 128
Model: resnet50
Val metric: {metric}
N epochs: 2
Lr: 1e-05
Seed: {seed}

Train data...
"""


def _row(epoch: int, accuracies: Sequence[float], counts: Sequence[int], plain: bool) -> dict[str, Any]:
    """A row as the package's evaluation gives it for Waterbirds, which leaves the plain average out."""
    row: dict[str, Any] = {"epoch": epoch}
    for group, accuracy, count in zip(GROUPS, accuracies, counts, strict=True):
        row |= {f"acc_{group}": accuracy, f"count_{group}": float(count)}
    row["acc_wg"] = min(accuracies)
    row["adj_acc_avg"] = sum(a * s for a, s in zip(accuracies, SHARES, strict=True)) / sum(SHARES)
    if plain:
        row["acc_avg"] = sum(a * c for a, c in zip(accuracies, counts, strict=True)) / sum(counts)
    return row


def write_log(
    folder: Path,
    val: Sequence[Sequence[float]],
    test: Sequence[Sequence[float]],
    record: dict[str, Any] | None = None,
    log: str | None = None,
    counts: Sequence[int] = OFFICIAL,
) -> Path:
    """A log folder with these group accuracies by epoch."""
    folder.mkdir(parents=True)
    for split, epochs, sizes in (("val", val, (467, 466, 133, 133)), ("test", test, counts)):
        rows = [_row(epoch, one, sizes, plain=record is not None) for epoch, one in enumerate(epochs)]
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (folder / f"{split}_eval.csv").write_text("\n".join(lines) + "\n")
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    if log is not None:
        (folder / "log.txt").write_text(log)
    return folder


def _record(algorithm: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    made = {"harness": "wilds", "dataset": "waterbirds", "algorithm": algorithm, "seed": seed, "selection": "average"}
    return made | {"selected_epoch": 1, "used_domains": False, "finished": True, "hparams": {}, "config": {}} | more


# Epoch 0 has the better worst group, epoch 1 the better average; epoch 2 the better worst class.
VAL = [(0.8, 0.7, 0.7, 0.8), (1.0, 0.9, 0.1, 0.9), (0.9, 0.6, 0.9, 0.9)]
TEST = [(0.81, 0.71, 0.61, 0.8), (0.99, 0.9, 0.12, 0.9), (0.9, 0.6, 0.8, 0.9)]


def _only(tables: list[Table]) -> Table:
    (table,) = tables
    return table


def _mine(table: Table, method: str) -> Row:
    return next(row for row in table.rows if row.method == method and not row.published)


@pytest.mark.parametrize(("rule", "epoch"), [("worst-group", 0), ("average", 1), ("worst-class", 2)])
def test_the_rules_choose_by_validation(tmp_path: Path, rule: str, epoch: int) -> None:
    write_log(tmp_path / "run", VAL, TEST, _record("CIM"))
    row = _mine(_only(build.report([tmp_path], rules=[rule]).tables), "CIM")
    assert row.protocol == rule
    assert row.cells["Waterbirds worst group"].mean == pytest.approx(100 * min(TEST[epoch]))
    adjusted = sum(a * s for a, s in zip(TEST[epoch], SHARES, strict=True)) / sum(SHARES)
    assert row.cells["Waterbirds average"].mean == pytest.approx(100 * adjusted)


def test_group_free_figures_of_run_expt_come_from_its_group_counts(tmp_path: Path) -> None:
    log = HEAD.format(uniform=True, metric="acc_wg", seed=3)
    write_log(tmp_path / "run", VAL, TEST, log=log)
    frame = read([tmp_path]).frame
    actual = frame[(frame["split"] == "val") & (frame["step"] == 0)].set_index("metric")["value"]
    assert actual["average"] == pytest.approx((0.8 * 467 + 0.7 * 466 + 0.7 * 133 + 0.8 * 133) / 1199)
    assert actual["worst_class"] == pytest.approx((0.7 * 133 + 0.8 * 133) / 266)


def test_a_run_of_run_expt_is_selected_with_groups(tmp_path: Path) -> None:
    write_log(tmp_path / "run", VAL, TEST, log=HEAD.format(uniform=True, metric="acc_wg", seed=3))
    records = read([tmp_path])
    (run,) = records.runs
    assert (run.harness, run.algorithm, run.trial, run.dataset) == ("wilds-examples", "GroupDRO", 3, "Waterbirds")
    assert run.finished
    assert run.hparams["lr"] == "1e-05"
    row = _mine(_only(build.report([tmp_path]).tables), "GroupDRO")
    assert (row.protocol, row.group_labels) == ("worst-group", "yes (training and selection)")


@pytest.mark.parametrize(
    ("used", "rule", "labels"),
    [
        (False, "average", "no, but validation is balanced over backgrounds"),
        (False, "worst-class", "no, but validation is balanced over backgrounds"),
        (False, "worst-group", "yes (selection)"),
        (True, "average", "yes (training)"),
        (True, "worst-group", "yes (training and selection)"),
    ],
)
def test_group_labels_are_what_was_used(tmp_path: Path, used: bool, rule: str, labels: str) -> None:
    write_log(tmp_path / "run", VAL, TEST, _record("CIM", selection=rule, used_domains=used))
    assert _mine(_only(build.report([tmp_path]).tables), "CIM").group_labels == labels


def test_each_run_has_its_own_rule_unless_one_is_asked_for(tmp_path: Path) -> None:
    write_log(tmp_path / "a", VAL, TEST, _record("CIM"))
    write_log(tmp_path / "b", VAL, TEST, _record("ERM", selection="worst-group", selected_epoch=0))
    tables = build.report([tmp_path]).tables
    assert [(table.selection, [row.method for row in table.rows if not row.published]) for table in tables] == [
        ("average", ["CIM"]),
        ("worst-group", ["ERM"]),
    ]
    table = _only(build.report([tmp_path], rules=["average"]).tables)
    assert [row.method for row in table.rows if not row.published] == ["ERM", "CIM"]
    assert {comparison.column for comparison in table.comparisons} == {"Waterbirds worst group", "Waterbirds average"}


def test_the_recorded_epoch_counts_for_the_runs_own_rule(tmp_path: Path) -> None:
    write_log(tmp_path / "run", VAL, TEST, _record("CIM", selected_epoch=2))
    row = _mine(_only(build.report([tmp_path]).tables), "CIM")
    assert row.cells["Waterbirds worst group"].mean == pytest.approx(60)


def test_published_rows_stand_beside_and_keep_their_labels(tmp_path: Path) -> None:
    write_log(tmp_path / "run", VAL, TEST, _record("CIM"))
    table = _only(build.report([tmp_path]).tables)
    assert table.name == "subgroups"
    shown = {
        (row.method, column, cell.printed) for row in table.rows if row.published for column, cell in row.cells.items()
    }
    expected = {
        (figure.method, f"{figure.dataset} {figure.column.replace('_', ' ')}", figure.printed)
        for figure in published.figures("subgroups")
    }
    assert shown == expected
    labels = {row.method: row.group_labels for row in table.rows if row.published}
    assert labels["GroupDRO"] == "yes"
    assert labels["CIM"] == "no"
    assert labels["CIM_VIB"] == "CelebA: no; Waterbirds: not stated"
    assert "Group labels" in render(grids(table))


def test_other_data_in_the_format_are_not_taken_for_waterbirds(tmp_path: Path) -> None:
    write_log(tmp_path / "run", VAL, TEST, _record("CIM"), counts=(200, 200, 200, 200))
    table = _only(build.report([tmp_path]).tables)
    assert table.name == "waterbirds-format"
    assert list(table.columns) == ["worst group", "average"]
    assert not any(row.published for row in table.rows)
    assert any("800 test images" in note and "not the official data" in note for note in table.notes)


def test_runs_that_used_groups_and_runs_that_did_not_are_two_rows(tmp_path: Path) -> None:
    for seed in range(2):
        write_log(tmp_path / f"a{seed}", VAL, TEST, _record("CIM", seed))
        write_log(tmp_path / f"b{seed}", VAL, TEST, _record("CIM", seed, used_domains=True))
    table = _only(build.report([tmp_path], with_published=False).tables)
    assert {row.method: row.cells["Waterbirds average"].trials for row in table.rows} == {
        "CIM (group labels: no)": 2,
        "CIM (group labels: yes (training))": 2,
    }


def test_runs_in_bf16_and_in_float32_are_two_rows(tmp_path: Path) -> None:
    """The examples' log says it as text; runs from before the option existed computed in float32."""
    log = "Dataset: waterbirds\nAlgorithm: CIM\nSeed: {}\nN epochs: 3\nVal metric: acc_avg\nBf16: {}\n\n"
    for seed, config in enumerate(({}, {"bf16": False}, {"bf16": True})):
        write_log(tmp_path / f"wilds{seed}", VAL, TEST, _record("CIM", seed, config=config))
    for seed, bf16 in enumerate((False, True)):
        write_log(tmp_path / f"examples{seed}", VAL, TEST, log=log.format(seed, bf16))
    table = _only(build.report([tmp_path], with_published=False).tables)
    trials = {(row.method, row.source): row.cells["Waterbirds average"].trials for row in table.rows}
    assert trials == {
        ("CIM (bf16=False)", "wilds"): 2,
        ("CIM (bf16=True)", "wilds"): 1,
        ("CIM (bf16=False)", "wilds-examples"): 1,
        ("CIM (bf16=True)", "wilds-examples"): 1,
    }


def test_of_two_runs_with_one_seed_the_better_on_validation_counts(tmp_path: Path) -> None:
    better = [tuple(min(1.0, value + 0.05) for value in epoch) for epoch in VAL]
    other = [tuple(value / 2 for value in epoch) for epoch in TEST]
    for name, val, test in (("a", VAL, TEST), ("b", better, other), ("c", VAL, TEST)):
        write_log(tmp_path / name, val, test, _record("CIM"))
    report = build.report([tmp_path])
    cell = _mine(_only(report.tables), "CIM").cells["Waterbirds worst group"]
    assert (cell.mean, cell.trials) == (pytest.approx(6), 1)
    assert any("more than once" in sentence for sentence in report.left_out)


def test_other_data_sets_have_a_column_for_each_split(tmp_path: Path) -> None:
    for seed in range(3):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        for split, value in (("id_val", 0.9), ("val", 0.8), ("test", 0.7)):
            text = f"epoch,acc_avg,acc_slide:0,count_slide:0,acc_wg\n0,{value + seed / 100},1.0,2.0,0.5\n"
            (folder / f"{split}_eval.csv").write_text(text)
        (folder / "run.json").write_text(json.dumps(_record("ERM", seed, dataset="camelyon17", selected_epoch=0)))
    table = _only(build.report([tmp_path]).tables)
    assert (table.name, list(table.columns)) == ("camelyon17", ["id_val average", "val average", "test average"])
    assert table.rows[0].cells["test average"].mean == pytest.approx(71)
    assert table.rows[0].cells["test average"].trials == 3


def test_bad_rows_and_logs_without_results_are_counted(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "run", VAL, TEST, _record("CIM", finished=False))
    with (folder / "val_eval.csv").open("a") as file:
        file.write("3,0.5,")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text(json.dumps(_record("ERM")))
    write_log(tmp_path / "unsaid", VAL, TEST, log="no head\n")
    records = read([tmp_path])
    assert {reason: len(places) for reason, places in records.skipped.items()} == {
        "Rows of WILDS' CSV files that are cut off or malformed, skipped": 1,
        "WILDS logs without a result yet": 1,
        "Folders whose run.json or log.txt does not say which run they are of": 1,
    }
    assert any("Not finished: 1 of 1" in sentence for sentence in records.report())


def test_a_rule_that_the_log_cannot_serve_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for split in ("val", "test"):
        (folder / f"{split}_eval.csv").write_text("epoch,acc_avg\n0,0.5\n")
    (folder / "run.json").write_text(json.dumps(_record("ERM", dataset="rxrx1", selected_epoch=0)))
    table = _only(build.report([tmp_path], rules=["worst-group"]).tables)
    assert any("Left out: 1 runs" in note for note in table.notes)


def test_selected_epochs_are_listed(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "run", VAL, TEST, _record("CIM", hparams={"cim_lambda": 3.0}))
    (folder / "waterbirds_seed:0_epoch:best_model.pth").touch()
    (grid,) = build.report([tmp_path], best_hparams=True).best
    ((method, *_, epoch, checkpoint, hparams),) = grid.rows
    assert (method, epoch) == (["CIM"], ["1"])
    assert checkpoint[0].endswith("epoch:best_model.pth")
    assert hparams == ["cim_lambda=3.0"]


@pytest.mark.slow
def test_a_real_log_of_cim_dg_wilds_train(tmp_path: Path) -> None:
    """What collect shows is what the run itself reports."""
    assert cli.main(["wilds", "digits", "--root_dir", str(tmp_path)]) == 0
    words = ["wilds", "train", "--dataset", "waterbirds", "--defaults", "digits", "--root_dir", str(tmp_path)]
    log = tmp_path / "log"
    assert cli.main([*words, "--algorithm", "ERM", "--n_epochs", "2", "--log_dir", str(log)]) == 0
    said = json.loads((log / "run.json").read_text())["results"]["test"]
    row = _mine(_only(build.report([log]).tables), "ERM")
    assert row.cells["worst group"].mean == pytest.approx(100 * said["worst_group"], abs=1e-4)
    assert row.cells["average"].mean == pytest.approx(100 * said["adjusted_average"], abs=1e-4)
    assert row.group_labels == "no"
