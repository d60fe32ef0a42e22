"""Tables as CSV for other programs: a line for each figure, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from cim_dg.results.aggregates import Aggregate
from cim_dg.results.build import Report
from cim_dg.results.tables import Cell, Row, Table

FIELDS = (
    *("table", "dataset", "selection", "column", "method", "source", "protocol", "published", "group_labels"),
    *("value", "stderr", "low", "high", "trials", "flag"),
    *("baseline", "difference", "difference_low", "difference_high", "p_holm", "verdict", "test", "primary"),
    *("trials_for_one_point", "trials_for_one_point_low", "trials_for_one_point_high"),
    *("p_better", "p_better_low", "p_better_high"),
)
OVER_DATASETS = "over datasets"
"""The `table` of aggregates: `dataset` names all of theirs, and `trials` are the fewest of a method on one."""


def render(report: Report) -> str:
    """Every cell of every table, with its comparison to the baseline, then the aggregates over datasets.

    Published values are as printed.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for table in report.tables:
        compared = {
            (comparison.method, comparison.source, comparison.column): comparison for comparison in table.comparisons
        }
        for row in table.rows:
            for column, cell in row.cells.items():
                line = _figure(table, row, column, cell)
                comparison = None if row.published else compared.get((row.method, row.source, column))
                if comparison is not None:
                    low, high = comparison.difference.interval or ("", "")
                    line |= {
                        "baseline": table.baseline,
                        "difference": comparison.difference.mean,
                        "difference_low": low,
                        "difference_high": high,
                        "p_holm": "" if comparison.corrected is None else comparison.corrected,
                        "verdict": comparison.verdict,
                        "test": "paired t" if comparison.difference.paired else "Welch",
                        "primary": "yes" if comparison.is_primary else "no",
                    }
                    if (needed := comparison.needed) is not None:
                        line |= {
                            "trials_for_one_point": needed.estimate or "",
                            "trials_for_one_point_low": needed.low or "",
                            "trials_for_one_point_high": needed.high or "",
                        }
                writer.writerow(line)
    for aggregate in report.over_datasets:
        writer.writerows(_over_datasets(aggregate))
    return out.getvalue()


def _over_datasets(aggregate: Aggregate) -> Iterator[dict[str, object]]:
    for method, (mean, low, high) in aggregate.means.items():
        line: dict[str, object] = {
            "table": OVER_DATASETS,
            "dataset": ", ".join(aggregate.datasets),
            "selection": aggregate.selection,
            "column": aggregate.kind,
            "method": method,
            "source": aggregate.source,
            "protocol": aggregate.selection,
            "published": "no",
            "value": mean,
            "low": low,
            "high": high,
            "trials": aggregate.trials,
        }
        if (better := aggregate.improvements.get(method)) is not None:
            names = ("p_better", "p_better_low", "p_better_high")
            line |= {"baseline": aggregate.baseline, **dict(zip(names, better, strict=True))}
        yield line


def _figure(table: Table, row: Row, column: str, cell: Cell) -> dict[str, object]:
    low, high = cell.interval or ("", "")
    return {
        "table": table.name,
        "dataset": table.dataset,
        "selection": table.selection,
        "column": column,
        "method": row.method,
        "source": row.source,
        "protocol": row.protocol,
        "published": "yes" if row.published else "no",
        "group_labels": row.group_labels,
        "value": cell.mean if cell.printed is None else cell.printed.split(" ")[0],
        "stderr": "" if cell.stderr is None else cell.stderr,
        "low": low,
        "high": high,
        "trials": cell.trials or "",
        "flag": cell.flag or "",
    }
