"""On the same folder, every number is the one that DomainBed's collect_results prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_sweeps import parse_tables, write_sweep

from cim_dg.results import domainbed_report
from cim_dg.results.domain_tables import domain_tables
from cim_dg.results.domains import ENVIRONMENTS, domain_names
from cim_dg.results.read import read
from cim_dg.results.selection import TITLES
from cim_dg.results.tables import Cell, Table

GOLDEN = Path(__file__).parent / "golden"


def _pairs(root: Path) -> None:
    write_sweep(root, "VLCS", 4)


def _ties(root: Path) -> None:
    write_sweep(root, "ColoredMNIST", 3, levels=4)


def _wide(root: Path) -> None:
    write_sweep(root, "SVIRO", 10, algorithms=["ERM"], trials=2, hparams_seeds=2, steps=(0, 50))


def _gaps(root: Path) -> None:
    write_sweep(root, "VLCS", 4, levels=8, keep=0.8)
    write_sweep(root, "PACS", 4, trials=2, pairs=False)


SWEEPS: dict[str, Callable[[Path], None]] = {"pairs": _pairs, "ties": _ties, "wide": _wide, "gaps": _gaps}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_number_is_domainbeds(name: str, tmp_path: Path) -> None:
    SWEEPS[name](tmp_path)
    _compare(tmp_path, (GOLDEN / f"{name}.txt").read_text())


@pytest.mark.parametrize("name", SWEEPS)
def test_the_report_in_domainbeds_format_is_the_same_text(name: str, tmp_path: Path) -> None:
    SWEEPS[name](tmp_path)
    records = read([tmp_path])
    datasets = sorted({run.dataset for run in records.runs}, reverse=True)  # DomainBed has VLCS before PACS
    environments = {dataset: ENVIRONMENTS[dataset] for dataset in datasets}
    n_lines = records.frame["checkpoint"].nunique()
    report = domainbed_report.render(records, n_lines, ["ERM"], environments)
    assert report == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.harness
@pytest.mark.parametrize("name", SWEEPS)
def test_golden_files_are_what_collect_results_prints(name: str, tmp_path: Path, domainbed_root: Path) -> None:
    SWEEPS[name](tmp_path)
    printed = _collect_results(tmp_path, domainbed_root)
    # To make the golden files again: CIM_DG_WRITE_GOLDEN=1 with DOMAINBED_ROOT set.
    if os.environ.get("CIM_DG_WRITE_GOLDEN"):
        (GOLDEN / f"{name}.txt").write_text(printed)
    assert parse_tables(printed) == parse_tables((GOLDEN / f"{name}.txt").read_text())


@pytest.mark.harness
def test_a_fresh_sweep_of_many_ties(tmp_path: Path, domainbed_root: Path) -> None:
    write_sweep(tmp_path, "VLCS", 4, algorithms=["ERM", "VIB", "CIM"], hparams_seeds=4, levels=3, keep=0.9)
    write_sweep(tmp_path, "RotatedMNIST", 6, trials=2, hparams_seeds=2, levels=16)
    _compare(tmp_path, _collect_results(tmp_path, domainbed_root))


@pytest.mark.harness
def test_environments_are_domainbeds(domainbed_root: Path) -> None:
    code = (
        "from domainbed import datasets; from cim_dg.results.domains import ENVIRONMENTS\n"
        "known = "
        "{n: tuple(datasets.get_dataset_class(n).ENVIRONMENTS) for n in ENVIRONMENTS if n in datasets.DATASETS}\n"
        "assert set(datasets.DATASETS) - set(ENVIRONMENTS) == set(), set(datasets.DATASETS) - set(ENVIRONMENTS)\n"
        "assert known == {name: ENVIRONMENTS[name] for name in known}, known\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{domainbed_root}{os.pathsep}{Path(__file__).parents[2]}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def _collect_results(folder: Path, root: Path) -> str:
    command = [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", str(folder)]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def _compare(folder: Path, printed: str) -> None:
    theirs = parse_tables(printed)
    tables = domain_tables(read([folder]), list(TITLES), "ERM", with_published=False)
    assert {table.dataset for table in tables} == {dataset for dataset, _ in theirs} - {"Averages"}
    for table in tables:
        expected = theirs[table.dataset, TITLES[table.selection]]
        averages = theirs["Averages", TITLES[table.selection]]
        column = list(dict.fromkeys(dataset for dataset, _ in theirs)).index(table.dataset)
        for row in table.rows:
            assert _cells(table, row.method) == expected[row.method], (table.dataset, table.selection)
            average = row.cells.get("Average")
            if average is not None and average.trials == row.cells[table.columns[0]].trials:
                assert _printed(average) == averages[row.method][column], (table.dataset, table.selection)
        missing = set(expected) - {row.method for row in table.rows}
        assert all(set(expected[method]) == {"X"} for method in missing)


def _cells(table: Table, method: str) -> list[str]:
    """A row as DomainBed prints it: environments in the order of their numbers."""
    row = next(row for row in table.rows if row.method == method)
    count = len(table.columns) - 1
    names = domain_names(table.dataset, max(count, 0))
    average = row.cells.get("Average")
    return [*(_printed(row.cells.get(name)) for name in names), "X" if average is None else f"{average.mean:.1f}"]


def _printed(cell: Cell | None) -> str:
    return "X" if cell is None else f"{cell.mean:.1f} +/- {cell.stderr:.1f}"
