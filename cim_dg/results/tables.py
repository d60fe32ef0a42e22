"""A table as data: rows of cells, paired comparisons to a baseline, and notes. Renderers only print it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cim_dg.results import published, statistics
from cim_dg.results.statistics import Difference, Summary

LEVEL = 1 - statistics.CONFIDENCE
OURS = ("GroupDRO", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB")


@dataclass(frozen=True)
class Cell:
    """A figure in percent. A published one is shown as `printed`, with a `flag` if it does not add up."""

    mean: float
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    trials: int | None = None
    printed: str | None = None
    flag: str | None = None


@dataclass(frozen=True)
class Row:
    """A method's figures by column. `source` is the harness of own runs, or the reference of published figures."""

    method: str
    source: str
    protocol: str
    cells: Mapping[str, Cell]
    published: bool = False
    group_labels: str = ""


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline in one column: the paired difference, and its p, corrected by Holm.

    `needed` is the number of trials to detect a true difference of one point; None without a spread, or if too many.
    """

    method: str
    source: str
    column: str
    difference: Difference
    corrected: float | None
    needed: int | None

    @property
    def verdict(self) -> str:
        """The result of the test in words."""
        if self.difference.trials < 2:
            return "one trial: cannot be tested"
        if self.corrected is None:
            return "equal in every trial" if self.difference.mean == 0 else "no spread between trials: cannot be tested"
        if self.corrected >= LEVEL:
            return "no significant difference"
        return "significantly higher" if self.difference.mean > 0 else "significantly lower"


@dataclass(frozen=True)
class Table:
    """A comparison under one selection rule. `name` is the value of --table."""

    name: str
    title: str
    selection: str
    columns: Sequence[str]
    rows: Sequence[Row]
    baseline: str = ""
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    group_labels: bool = False
    dataset: str = field(default="")


Trials = Mapping[int, float]  # trial -> value, 0 to 1


def method_order(methods: Sequence[str], baseline: str, variants: Sequence[str] = ()) -> list[str]:
    """The baseline first, then the harness' own methods by name, then this package's, then `variants`."""
    last = [name for name in (*OURS, *variants) if name in methods and name != baseline]
    others = sorted(method for method in set(methods) if method != baseline and method not in last)
    return [*([baseline] if baseline in methods else []), *others, *dict.fromkeys(last)]


def cell(values: Trials, share: bool = True) -> Cell:
    """The cell of one value per trial. `share` says that values are from 0 to 1, unlike differences."""
    return summary_cell(statistics.summarise(list(values.values()), scale=100.0), share=share)


def summary_cell(summary: Summary, mean: float | None = None, share: bool = True) -> Cell:
    """The cell of a summary in percent, with another `mean` if given. Intervals of shares end at 0 and 100."""
    interval = summary.interval
    if interval is not None and share:
        interval = max(interval[0], 0.0), min(interval[1], 100.0)
    return Cell(summary.mean if mean is None else mean, summary.stderr, interval, summary.trials)


def compare(
    trials: Mapping[tuple[str, str], Mapping[str, Trials]],
    baselines: Mapping[tuple[str, str], tuple[str, str]],
    columns: Sequence[str],
) -> list[Comparison]:
    """Rows against their baselines, column by column.

    Args:
        trials: (method, source) -> column -> trial -> value, 0 to 1.
        baselines: the row with which a row is compared, of the same source (harness).
    """
    differences: dict[tuple[str, str, str], Difference] = {}
    for (method, source), other in baselines.items():
        row, against = trials[method, source], trials[other]
        for column in columns:
            own, baseline_trials = row.get(column, {}), against.get(column, {})
            common = [trial for trial in own if trial in baseline_trials]
            if common:
                differences[method, source, column] = statistics.paired(
                    [own[t] for t in common], [baseline_trials[t] for t in common], scale=100.0
                )
    corrected: dict[tuple[str, str, str], float] = {}
    family_size: dict[tuple[str, str], int] = {}
    for source, column in {(source, column) for _, source, column in differences}:
        family = [
            key for key, difference in differences.items() if key[1:] == (source, column) and difference.p is not None
        ]
        family_size[source, column] = len(family)
        ps = statistics.holm([p for key in family if (p := differences[key].p) is not None])
        corrected.update(zip(family, ps.tolist(), strict=True))
    return [
        Comparison(
            *key,
            difference,
            corrected.get(key),
            statistics.trials_needed(difference.spread, 1.0, family_size[key[1:]]) if difference.spread > 0 else None,
        )
        for key, difference in differences.items()
    ]


def same_baseline(keys: Iterable[tuple[str, str]], baseline: str) -> dict[tuple[str, str], tuple[str, str]]:
    """The `baselines` of `compare` if the baseline has one row in each source: all other rows of the source."""
    rows = list(keys)
    return {key: (baseline, key[1]) for key in rows if key[0] != baseline and (baseline, key[1]) in rows}


def published_rows(figures: Sequence[published.Figure]) -> list[Row]:
    """Published figures of one data set as rows, each flagged where its row does not add up."""
    rows = []
    for (method, protocol, source, labels), row in published.rows(figures).items():
        printed = {figure.column: figure.printed for figure in row}
        cells = {
            figure.column: Cell(
                float(figure.printed),
                float(figure.stderr) if figure.stderr else None,
                printed=f"{figure.printed} ± {figure.stderr}" if figure.stderr else figure.printed,
                flag=published.flag(figure.column, printed),
            )
            for figure in row
        }
        rows.append(Row(method, source, protocol, cells, published=True, group_labels=labels))
    return rows


def flag_notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each published figure that does not add up."""
    return [
        f"! {row.method} ({row.source}): {cell.flag}; shown as printed."
        for row in rows
        for cell in row.cells.values()
        if cell.flag is not None
    ]
