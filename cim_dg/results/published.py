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


def is_share(printed: str, count: int) -> bool:
    """Whether a printed percentage can be a number of `count` images, to its digits; zeros at its end are no digits."""
    value = Decimal(printed).normalize()
    half_a_digit = Decimal(5).scaleb(min(int(value.as_tuple().exponent), 0) - 1)
    return abs(Decimal(round(value * count / 100)) * 100 / count - value) <= half_a_digit


_CELEBA_TEST_IMAGES, _CELEBA_INFERRED = 180, 128


def celeba_note() -> str:
    """What the printed figures of CelebA's worst group were computed on, as an inference; empty if they do not say.

    The test split has 180 images of the group (blond men).
    """
    rows = [f for f in figures("subgroups") if (f.dataset, f.column) == ("CelebA", "worst_group")]
    sagawa = [figure.printed for figure in rows if figure.source == "Sagawa et al. 2019"]
    own = {figure.method: figure.printed for figure in rows if figure.source != "Sagawa et al. 2019"}
    if not (
        all(
            is_share(printed, _CELEBA_INFERRED) and not is_share(printed, _CELEBA_TEST_IMAGES)
            for printed in own.values()
        )
        and all(is_share(printed, _CELEBA_TEST_IMAGES) for printed in sagawa)
    ):
        return ""
    images = round((Decimal(own["CIM"]) - Decimal(own["VIB"])) * _CELEBA_INFERRED / 100)
    return (
        f"† An inference, not a statement of the paper: its {len(own)} worst-group figures of CelebA "
        f"({', '.join(own.values())}) are multiples of 1/{_CELEBA_INFERRED}, to the printed digits, and none is one of "
        f"1/{_CELEBA_TEST_IMAGES}, the number of test images of that group; those of Sagawa et al. are. They may have "
        f"been computed on {_CELEBA_INFERRED} images, of which CIM has {images} more than VIB."
    )
