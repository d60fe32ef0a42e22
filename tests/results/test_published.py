"""Published figures come out as printed, to the digit, and those that do not add up are flagged by computation."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
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


def test_celebas_worst_groups_are_of_128_images_by_inference() -> None:
    (table,) = [table for table in _tables() if table.name == "subgroups"]
    (note,) = [note for note in table.notes if "inference" in note]
    assert "its 5 worst-group figures of CelebA (70.31, 68.80, 78.13, 81.25, 83.59)" in note
    assert "multiples of 1/128" in note and "none is one of 1/180" in note and "CIM has 4 more than VIB" in note


@pytest.mark.parametrize("count", [7, 128, 180])
def test_a_share_is_known_by_its_printed_digits(count: int) -> None:
    exact = [Decimal(100 * hits) / count for hits in range(count + 1)]
    shares = {
        str(share.quantize(Decimal("0.01"), mode)) for share in exact for mode in (ROUND_HALF_UP, ROUND_HALF_DOWN)
    }
    assert all(published.is_share(printed, count) for printed in shares)
    others = [f"{hundredth / 100:.2f}" for hundredth in range(1, 10_000, 7) if hundredth % 10]
    assert [other for other in others if published.is_share(other, count)] == [
        other for other in others if other in shares
    ]


def test_domainbeds_rows_of_its_photographs_are_its_own_files(domainbed_root: Path) -> None:
    """Every cell of results.tex for the five datasets, and no other row that claims to come from there."""
    names = {"VLCS": dict(zip("CLSV", ("Caltech", "LabelMe", "Sun", "Pascal"), strict=True))}
    rules = {"training": "iid", "leave": "leave-one-out", "test": "oracle"}
    expected, rule, dataset, columns = set(), "", "", [""]
    text = (domainbed_root / "domainbed/results/2020_10_06_7df6f06/results.tex").read_text()
    for line in text.splitlines():
        if heading := re.match(r"\\(sub)?subsection{(?:Model selection: )?(\w+)", line):
            rule, dataset = (rule, heading[2]) if heading[1] else (rules[heading[2]], "")
        elif line.startswith(r"\textbf{Algorithm}"):
            columns = re.findall(r"\\textbf{([^}]*)}", line)[1:]
        elif line.endswith(r"\\") and dataset in ("VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet"):
            method, *cells = (cell.strip() for cell in line.removesuffix(r"\\").split("&"))
            for column, cell in zip(columns, cells, strict=True):
                value, _, stderr = cell.partition(r" $\pm$ ")
                name = "Average" if column == "Avg" else names.get(dataset, {}).get(column, column)
                expected.add((dataset, name, method, f"domainbed-{rule}", value, stderr))
    with FILE.open(encoding="utf-8") as file:
        actual = {
            tuple(row[name] for name in ("dataset", "column", "method", "protocol", "value", "stderr"))
            for row in csv.DictReader(file)
            if row["source"].startswith("DomainBed results 2020-10-06")
        }
    assert actual == expected and len(actual) == 14 * 3 * (4 * 5 + 7)


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
