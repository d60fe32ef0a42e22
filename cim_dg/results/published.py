"""Published figures (published.csv), shown as printed with source and protocol, and checked for consistency."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Figure:
    """One published number; `printed` and `stderr` are the characters that were printed."""

    table: str
    dataset: str
    column: str
    method: str
    protocol: str
    group_labels: str  # "yes", "no", or "" if the source does not say
    printed: str
    stderr: str
    source: str


def names() -> list[str]:
    """The tables that have published figures."""
    return list(dict.fromkeys(figure.table for figure in _all()))


def figures(table: str) -> list[Figure]:
    """The published figures of a table, in the order of the file."""
    return [figure for figure in _all() if figure.table == table]


@cache
def _all() -> tuple[Figure, ...]:
    text = resources.files("cim_dg.results").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(
        Figure(
            table=row["table"],
            dataset=row["dataset"],
            column=row["column"],
            method=row["method"],
            protocol=row["protocol"],
            group_labels=row["uses_group_labels"],
            printed=row["value"],
            stderr=row["stderr"],
            source=row["source"],
        )
        for row in rows
    )


def flag(column: str, row: dict[str, str]) -> str | None:
    """Why a printed figure does not follow from the others of its row (column -> printed text), or None if it does.

    An average is the mean of the other columns, a background gap (BGp) is MS - MR. A figure is flagged if it is off
    by at least one unit of its last digit, computed in decimals. Rounding the columns first can cause less than that.
    """
    printed = Decimal(row[column])
    others = [Decimal(text) for name, text in row.items() if name != column]
    if column == "Average" and others:
        computed, explanation = sum(others, Decimal()) / len(others), f"the {len(others)} columns average"
    elif column == "BGp" and {"MS", "MR"} <= row.keys():
        computed, explanation = Decimal(row["MS"]) - Decimal(row["MR"]), f"MS - MR = {row['MS']} - {row['MR']} ="
    else:
        return None
    unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    if abs(printed - computed) < unit:
        return None
    return f"{column} is printed as {printed}, but {explanation} {computed.quantize(unit)}"


def rows(figures: Sequence[Figure]) -> dict[tuple[str, str, str, str], list[Figure]]:
    """Figures by row of a table: (method, protocol, source, group labels) -> its figures."""
    grouped: dict[tuple[str, str, str, str], list[Figure]] = {}
    for figure in figures:
        grouped.setdefault((figure.method, figure.protocol, figure.source, figure.group_labels), []).append(figure)
    return grouped
