"""Published figures come out as printed, to the digit, and those that do not add up are flagged by computation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cim_dg.results import build, published, render_csv
from cim_dg.results.published import flag
from cim_dg.results.tables import Table

FILE = Path(published.__file__).with_name("published.csv")


def _tables() -> list[Table]:
    return build.report([], names=published.names(), rules=["iid", "leave-one-out", "oracle"]).tables


def test_every_figure_is_shown_as_printed() -> None:
    with FILE.open(encoding="utf-8") as file:
        expected = {
            (one["table"], one["column"], one["method"], one["protocol"], one["source"], one["value"], one["stderr"])
            for one in csv.DictReader(file)
            if one["table"] != "subgroups"  # its two data sets are merged into one table: test_wilds_logs.py
        }
    shown = set()
    for table in _tables():
        for row in table.rows:
            assert row.published
            for column, cell in row.cells.items():
                value, _, stderr = str(cell.printed).partition(" ± ")
                shown.add((table.name, column, row.method, row.protocol, row.source, value, stderr))
    assert expected <= shown


def test_the_figures_that_do_not_add_up_are_flagged_and_no_others() -> None:
    flagged = {
        (row.method, column, cell.printed, cell.flag)
        for table in _tables()
        for row in table.rows
        for column, cell in row.cells.items()
        if cell.flag
    }
    assert flagged == {
        ("DeepC", "Average", "68.89", "Average is printed as 68.89, but the 4 columns average 68.99"),
        ("SLRC", "Average", "70.15", "Average is printed as 70.15, but the 4 columns average 70.97"),
        ("D-SAM", "Average", "67.03", "Average is printed as 67.03, but the 4 columns average 67.28"),
        ("CIM", "BGp", "8.8", "BGp is printed as 8.8, but MS - MR = 89.8 - 81.1 = 8.7"),
    }


@pytest.mark.parametrize(
    ("average", "wrong"),
    [("77.3", False), ("77.2", False), ("77.1", True), ("77.25", False), ("77.26", True), ("77", False)],
)
def test_rounding_is_no_flaw_and_a_whole_last_digit_is(average: str, wrong: bool) -> None:
    row = {"a": "77.0", "b": "77.5", "Average": average}
    assert bool(flag("Average", row)) == wrong


def test_vlcs_columns_are_matched_by_name() -> None:
    """DomainBed's rows stand in the order of its folders, the paper's in its own: the name counts."""
    table, _ = (_table for _table in _tables() if _table.name == "vlcs" and _table.selection == "iid")
    assert list(table.columns) == ["Caltech", "LabelMe", "Pascal", "Sun", "Average"]
    erm = next(row for row in table.rows if (row.method, row.protocol) == ("ERM", "domainbed-iid"))
    assert (erm.cells["Pascal"].printed, erm.cells["Sun"].printed) == ("74.6 ± 1.3", "73.4 ± 0.5")
    cim = next(row for row in table.rows if (row.method, row.protocol) == ("CIM", "paper"))
    assert (cim.cells["Pascal"].printed, cim.cells["Sun"].printed) == ("73.97", "69.01")


def test_the_protocols_are_told_apart() -> None:
    for table in _tables():
        notes = " ".join(table.notes)
        if "SWAD" in table.title:
            assert table.selection == "iid"
            assert "not comparable" in notes
            assert {row.protocol for row in table.rows} == {"swad-iid"}
        elif table.name == "vlcs":
            assert "not comparable" in notes
            assert "paper's CIM 77.25" in notes
            assert {row.protocol for row in table.rows} == {"paper", f"domainbed-{table.selection}"}


def test_csv_keeps_the_printed_characters() -> None:
    text = render_csv.render(build.report([], names=["vlcs"]))
    lines = list(csv.DictReader(text.splitlines()))
    assert next(line["value"] for line in lines if line["method"] == "CIDDG" and line["column"] == "Sun") == "62.10"
