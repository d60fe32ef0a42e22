"""A table as data: rows of cells, paired comparisons to a baseline, and notes. Renderers only print it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cim_dg.results import published, statistics
from cim_dg.results.primary import Declared, Primary
from cim_dg.results.statistics import Difference, Needed, Summary

Key = tuple[str, str]  # (method, source)
Trials = Mapping[int, float]  # trial -> value, 0 to 1
Keys = tuple[str, list[tuple[str, str]]]  # a dataset, and (split, metric) pairs
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
    """A method against the baseline in one column: the difference, and its p, corrected by Holm.

    `needed` is the number of trials to detect a true difference of one point; None without a spread. The primary
    comparison is tested alone: its p is not corrected.
    """

    method: str
    source: str
    column: str
    difference: Difference
    corrected: float | None
    needed: Needed | None
    is_primary: bool = False

    @property
    def verdict(self) -> str:
        """The result of the test in words."""
        return self._result + (" (primary)" if self.is_primary else "")

    @property
    def _result(self) -> str:
        if self.difference.trials < 2:
            return "one trial: cannot be tested"
        if self.corrected is None:
            equal = self.difference.paired and self.difference.mean == 0
            return "equal in every trial" if equal else "no spread between trials: cannot be tested"
        if self.corrected >= LEVEL:
            return "no significant difference"
        return "significantly higher" if self.difference.mean > 0 else "significantly lower"


@dataclass(frozen=True)
class Table:
    """A comparison under one selection rule. `name` is the value of --table.

    `trials` are the values of own rows by (method, source), column and trial, 0 to 1. `headlines` are the figures by
    which aggregates over datasets are made: dataset -> its column, and the name of the figure. For WILDS, `runs` are
    all runs of own rows (number in the records -> row), `selected` those whose figures are shown, and `keys` says what
    a column is: its dataset, and the (split, metric) pairs of which the first that a run has is shown.
    """

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
    protocol: str = ""
    trials: Mapping[Key, Mapping[str, Trials]] = field(default_factory=dict)
    headlines: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    runs: Mapping[int, Key] = field(default_factory=dict)
    selected: Mapping[int, Key] = field(default_factory=dict)
    keys: Mapping[str, Keys] = field(default_factory=dict)


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
    trials: Mapping[Key, Mapping[str, Trials]],
    baselines: Mapping[Key, Key],
    columns: Sequence[str],
    paired: bool = True,
    primary: Primary | None = None,
) -> list[Comparison]:
    """Rows against their baselines, column by column.

    p is corrected by Holm over the methods of a column. With a primary comparison, which is tested alone, all others
    of its source are one family.

    Args:
        trials: (method, source) -> column -> trial -> value, 0 to 1.
        baselines: the row with which a row is compared, of the same source (harness).
        paired: whether trials of one number are matched (a paired t test), or independent (Welch's).
        primary: the primary comparison, if the table has one.
    """
    differences: dict[tuple[str, str, str], Difference] = {}
    for (method, source), other in baselines.items():
        for column in columns:
            own, against = trials[method, source].get(column, {}), trials[other].get(column, {})
            if paired:
                common = [trial for trial in own if trial in against]
                values = [own[trial] for trial in common], [against[trial] for trial in common]
            else:
                values = list(own.values()), list(against.values())
            if all(values):
                test = statistics.paired if paired else statistics.unpaired
                differences[method, source, column] = test(*values, scale=100.0)
    families = _families(differences, primary)
    corrected: dict[tuple[str, str, str], float] = {}
    size: dict[tuple[str, str, str], int] = {}
    for family in families:
        tested = {key: p for key in family if (p := differences[key].p) is not None}
        corrected.update(zip(tested, statistics.holm(list(tested.values())).tolist(), strict=True))
        size |= dict.fromkeys(family, max(len(tested), 1))
    return [
        Comparison(
            *key,
            difference,
            corrected.get(key),
            statistics.needed(difference, 1.0, size[key]),
            _is_primary(key, primary),
        )
        for key, difference in differences.items()
    ]


def _families(keys: Iterable[tuple[str, str, str]], primary: Primary | None) -> list[list[tuple[str, str, str]]]:
    """The comparisons that are corrected together."""
    keys = list(keys)
    with_primary = {source for key in keys if _is_primary(key, primary) for source in key[1:2]}
    families: dict[tuple[str, ...], list[tuple[str, str, str]]] = {}
    for key in keys:
        method, source, column = key
        name = (source, column) if source not in with_primary else (source, method if _is_primary(key, primary) else "")
        families.setdefault((*name, "primary" if _is_primary(key, primary) else ""), []).append(key)
    return list(families.values())


def _is_primary(key: tuple[str, str, str], primary: Primary | None) -> bool:
    return primary is not None and (key[0], key[2]) == (primary.method, primary.column)


def primary_note(primary: Declared | None, comparisons: Sequence[Comparison]) -> list[str]:
    """What the table's primary comparison is, and when it was declared; empty without one."""
    if primary is None:
        return []
    what = f"{primary.method} against {primary.baseline} in the column {primary.column}"
    if not any(comparison.is_primary for comparison in comparisons):
        return [f"The primary comparison, {what}, is not in this table."]
    when = f"after {primary.finished_before} of its runs" if primary.finished_before else "before any of its runs"
    return [f"Primary comparison: {what}, declared by the sweep {when} had finished."]


def tried_note(tried: Mapping[str, str], where: str) -> str:
    """A sentence on how many settings each row's method was tried with."""
    counts = set(tried.values())
    if len(counts) == 1:
        return f"Settings tried{where}: {counts.pop()} of each method."
    each = ", ".join(f"{label} {count}" for label, count in tried.items())
    return f"Settings tried{where}: {each}; unequal, which favours who had more."


def same_baseline(keys: Iterable[Key], baseline: str) -> dict[Key, Key]:
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
