"""Tables as grids of text. Only this module formats figures; text, Markdown, LaTeX and the page print its grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cim_dg.results import statistics
from cim_dg.results.tables import Cell, Comparison, Row, Table

MISSING = "—"
PUBLISHED = "†"
FLAGGED = "!"


@dataclass(frozen=True)
class Grid:
    """Rows of text cells under a header. A cell has one or more lines; `faint` rows (published ones) are set apart."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Sequence[str]]]
    faint: Sequence[bool]
    notes: Sequence[str] = ()
    numeric: Sequence[bool] = field(default=())


def grids(table: Table) -> list[Grid]:
    """The table with its notes, and its paired comparisons if there are any."""
    return [_figures(table), *([_comparisons(table)] if table.comparisons else [])]


def _figures(table: Table) -> Grid:
    labels = ["Group labels"] if table.group_labels else []
    header = ["Method", "From", "Protocol", *labels, *table.columns, "Trials"]
    rows = [_row(row, table) for row in table.rows]
    notes = list(table.notes)
    if any(cell.interval for row in table.rows for cell in row.cells.values()):
        notes.insert(1, "Mean ± standard error over trials; below it the 95% interval of the mean.")
    if any(cell.trials == 1 for row in table.rows for cell in row.cells.values()):
        notes.append("Where there is one trial only there is no interval, and nothing can be tested: run at least 3.")
    if any(column not in row.cells for row in table.rows for column in table.columns):
        notes.append(f"{MISSING} no figure.")
    numeric = [name in table.columns for name in header]
    return Grid(
        f"{table.title} [{table.selection}]", header, rows, [row.published for row in table.rows], notes, numeric
    )


def _row(row: Row, table: Table) -> list[list[str]]:
    labels = [[row.group_labels]] if table.group_labels else []
    trials = sorted({cell.trials for cell in row.cells.values() if cell.trials})
    counted = MISSING if not trials else str(trials[0]) if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
    return [
        [row.method + (f" {PUBLISHED}" if row.published else "")],
        [row.source],
        [row.protocol],
        *labels,
        *(figure(row.cells.get(column)) for column in table.columns),
        [counted],
    ]


def figure(cell: Cell | None) -> list[str]:
    """A cell's lines: mean and standard error as DomainBed prints them (or as published), and the interval."""
    if cell is None:
        return [MISSING]
    if cell.printed is not None:
        return [cell.printed + (f" {FLAGGED}" if cell.flag else "")]
    if cell.stderr is None or cell.trials == 1:
        return [f"{cell.mean:.1f}"]
    lines = [f"{cell.mean:.1f} ± {cell.stderr:.1f}"]
    if cell.interval is not None:
        lines.append(f"[{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]")
    return lines


def _comparisons(table: Table) -> Grid:
    header = ["Method", "From", "Column", "Difference", "95% interval", "p (Holm)", "", "Trials for 1 point [95%]"]
    order = {column: number for number, column in enumerate(table.columns)}
    rows = [
        [[text] for text in _comparison(row)]
        for row in sorted(table.comparisons, key=lambda row: (row.method, row.source, order[row.column]))
    ]
    # The order of the methods is the table's.
    row_number = {(row.method, row.source): number for number, row in enumerate(table.rows)}
    rows.sort(key=lambda cells: row_number[cells[0][0], cells[1][0]])
    notes = [
        f"Differences to {table.baseline} in points, {_test(table)}; the interval is of each comparison alone. "
        + _correction(table),
        f"Trials for 1 point: how many it would take to see a true difference of one point ({statistics.POWER:.0%} "
        "power, at the 5% level divided by the number of tests corrected together), if trials spread as these do, and "
        "what it would be at the ends of the spread's 95% interval.",
    ]
    numeric = [False, False, False, True, True, True, False, True]
    return Grid(
        f"{table.title} [{table.selection}]: compared with {table.baseline}",
        header,
        rows,
        [False] * len(rows),
        notes,
        numeric,
    )


def _comparison(row: Comparison) -> list[str]:
    difference = row.difference
    interval = (
        MISSING if difference.interval is None else f"[{difference.interval[0]:+.1f}, {difference.interval[1]:+.1f}]"
    )
    p = MISSING if row.corrected is None else f"{row.corrected:.3f}" if row.corrected >= 0.001 else "< 0.001"
    needed = MISSING
    if row.needed is not None:
        estimate, low, high = map(_count, (row.needed.estimate, row.needed.low, row.needed.high))
        needed = f"{estimate} [{low}, {high}]"
    return [row.method, row.source, row.column, f"{difference.mean:+.1f}", interval, p, row.verdict, needed]


def _count(trials: int | None) -> str:
    return f">{statistics.MOST_TRIALS}" if trials is None else str(trials)


def _test(table: Table) -> str:
    if all(comparison.difference.paired for comparison in table.comparisons):
        return "paired over trials; p by a paired t test"
    return (
        "of means over trials; p by Welch's t test, unpaired, since the images of training and test are the same in "
        "every trial"
    )


def _correction(table: Table) -> str:
    if any(comparison.is_primary for comparison in table.comparisons):
        return "The primary comparison is tested alone; all others are corrected together (Holm)."
    return "p is corrected over the methods of a column (Holm), not over the columns."
