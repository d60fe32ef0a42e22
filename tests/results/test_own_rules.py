"""The datasets' own rules: macro F1 of iWildCam, the worst region of FMoW; Waterbirds' balanced validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_wilds_logs import write_wilds_log

from cim_dg.results import build
from cim_dg.wilds.config import make_config

OFFICIAL = (2255, 2255, 642, 642)


def _log(folder: Path, dataset: str, rule: str, columns: str, val: list[str], test: list[str]) -> None:
    folder.mkdir()
    for split, rows in (("val", val), ("test", test)):
        text = "\n".join([f"epoch,{columns}", *(f"{epoch},{row}" for epoch, row in enumerate(rows))])
        (folder / f"{split}_eval.csv").write_text(text + "\n")
    record = {"harness": "wilds", "dataset": dataset, "algorithm": "ERM", "seed": 0, "selection": rule}
    (folder / "run.json").write_text(json.dumps({**record, "used_domains": False, "finished": True}))


@pytest.mark.parametrize(("rules", "epoch"), [([], 1), (["macro-f1"], 1), (["average"], 0)])
def test_iwildcam_is_selected_by_macro_f1(tmp_path: Path, rules: list[str], epoch: int) -> None:
    val, test = ["0.9,0.2", "0.8,0.4"], ["0.7,0.1", "0.6,0.3"]
    _log(tmp_path / "run", "iwildcam", "macro-f1", "acc_avg,F1-macro_all", val, test)
    (table,) = build.report([tmp_path], rules=rules).tables
    assert table.selection == (rules or ["macro-f1"])[0]
    assert list(table.columns) == ["val F1-macro all", "test F1-macro all", "val average", "test average"]
    assert table.rows[0].cells["test F1-macro all"].mean == pytest.approx((10, 30)[epoch])
    assert table.rows[0].group_labels == "no"


def test_fmow_is_selected_by_its_worst_region_and_says_so(tmp_path: Path) -> None:
    val, test = ["0.9,0.2", "0.8,0.4"], ["0.7,0.1", "0.6,0.3"]
    _log(tmp_path / "run", "fmow", "worst-group", "acc_avg,acc_worst_region", val, test)
    (table,) = build.report([tmp_path]).tables
    assert table.rows[0].cells["test worst group"].mean == pytest.approx(30)
    assert table.rows[0].group_labels == "yes (selection)"


@pytest.mark.parametrize(
    ("dataset", "rule"),
    [("iwildcam", "macro-f1"), ("fmow", "worst-group"), ("camelyon17", "average"), ("rxrx1", "average")],
)
def test_a_run_selects_by_its_datasets_own_rule(dataset: str, rule: str) -> None:
    assert make_config({"dataset": dataset, "algorithm": "ERM", "root_dir": "."}).selection == rule


def test_no_group_labels_on_waterbirds_are_said_with_its_balanced_validation(tmp_path: Path) -> None:
    write_wilds_log(tmp_path / "official", "ERM", OFFICIAL)
    (table,) = build.report([tmp_path], with_published=False).tables
    assert [row.group_labels for row in table.rows] == ["no, but validation is balanced over backgrounds"]
    write_wilds_log(tmp_path / "other" / "data", "ERM")
    (table,) = build.report([tmp_path / "other"], with_published=False).tables
    assert [row.group_labels for row in table.rows] == ["no"], "of other data that is not known"
