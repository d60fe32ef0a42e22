"""The report that DomainBed's collect_results prints, as text or LaTeX, character for character.

Each data set has a table under each selection rule, with a column for each test environment; a last table has the
averages over the environments. A cell is mean and standard error (ddof 0) over trials, in percent, or X if no run can
be selected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cim_dg.results.fixed_width import format_row
from cim_dg.results.records import Records
from cim_dg.results.selection import TITLES, select
from cim_dg.results.statistics import mean_and_stderr

DATASET_WIDTH = 20
"""The width of a column in a data set's table."""
AVERAGES_WIDTH = 25
"""The width of a column in the table of averages."""


class Outcome(NamedTuple):
    """The test accuracy (0 to 1) of the selected run of one trial on one test environment."""

    test_env: int
    trial: int
    accuracy: float


def render(
    records: Records,
    n_lines: int,
    algorithms: Sequence[str],
    environments: Mapping[str, Sequence[str]],
    latex: bool = False,
) -> str:
    """The whole report.

    Args:
        records: the records of one harness.
        n_lines: the number of lines of results.jsonl that they come from.
        algorithms: the harness' list. They are the first rows; others follow in the order of reading.
        environments: the names of the environments of each data set that has a table, in this order.
        latex: LaTeX (a document that compiles) instead of text.
    """
    lines = [f"Total records: {n_lines}"]
    if latex:
        lines = [
            "\\documentclass{article}",
            "\\usepackage{booktabs}",
            "\\usepackage{adjustbox}",
            "\\begin{document}",
            "\\section{Full DomainBed results}",
            f"% Total records: {n_lines}",
        ]
    for rule, title in TITLES.items():
        if latex:
            lines += ["", f"\\subsection{{Model selection: {title}}}"]
        lines += _tables(records, rule, algorithms, environments, latex)
    if latex:
        lines.append("\\end{document}")
    return "\n".join(lines) + "\n"


def _tables(
    records: Records, rule: str, algorithms: Sequence[str], environments: Mapping[str, Sequence[str]], latex: bool
) -> list[str]:
    """The lines of the tables under one rule."""
    read = list(dict.fromkeys(run.algorithm for run in records.runs))
    methods = [name for name in algorithms if name in read] + [name for name in read if name not in algorithms]
    outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for cell in select(records, rule).itertuples():
        outcome = Outcome(int(cell.test_env), int(cell.trial), float(cell.value))
        outcomes[str(cell.dataset), str(cell.algorithm)].append(outcome)

    lines = []
    for dataset, names in environments.items():
        rows = {
            method: [
                [outcome.accuracy for outcome in outcomes[dataset, method] if outcome.test_env == env]
                for env in range(len(names))
            ]
            for method in methods
        }
        heading = f"Dataset: {dataset}, model selection method: {TITLES[rule]}"
        lines += _heading(heading, dataset, latex) + _table(names, rows, DATASET_WIDTH, latex)
    rows = {method: [_trial_averages(outcomes[dataset, method]) for dataset in environments] for method in methods}
    heading = f"Averages, model selection method: {TITLES[rule]}"
    return lines + _heading(heading, "Averages", latex) + _table(list(environments), rows, AVERAGES_WIDTH, latex)


def _trial_averages(outcomes: Sequence[Outcome]) -> list[float]:
    """The mean of each trial over the environments that it has, in the order of the trials."""
    by_trial: dict[int, list[float]] = defaultdict(list)
    for outcome in outcomes:
        by_trial[outcome.trial].append(outcome.accuracy)
    return [float(np.mean(by_trial[trial])) for trial in sorted(by_trial)]


def _heading(text: str, section: str, latex: bool) -> list[str]:
    return ["", f"\\subsubsection{{{section}}}", ""] if latex else ["", f"-------- {text}"]


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[Sequence[float]]], width: int, latex: bool) -> list[str]:
    """The lines of one table: a row for each method, with a cell for each list of accuracies and their average."""
    header = ["Algorithm", *columns, "Avg"]
    if latex:
        header = ["\\textbf{" + name.replace("%", "\\%") + "}" for name in header]
    body = [format_row([method, *_cells(values, latex)], width, latex) for method, values in rows.items()]
    lines = [format_row(header, width, latex), *body]
    if not latex:
        return lines
    return [
        "\\begin{center}",
        "\\adjustbox{max width=\\textwidth}{%",
        "\\begin{tabular}{l" + "c" * (len(header) - 1) + "}",
        "\\toprule",
        lines[0],
        "\\midrule",
        *lines[1:],
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{center}",
    ]


def _cells(values: Sequence[Sequence[float]], latex: bool) -> list[str]:
    """A cell for each list of accuracies, and the mean of the cells' means; X for missing ones."""
    summaries = [mean_and_stderr(accuracies, scale=100.0) if len(accuracies) else None for accuracies in values]
    sign = "$\\pm$" if latex else "+/-"
    cells = ["X" if summary is None else f"{summary[0]:.1f} {sign} {summary[1]:.1f}" for summary in summaries]
    means = [summary[0] for summary in summaries if summary is not None]
    return [*cells, f"{sum(means) / len(means):.1f}" if means and len(means) == len(cells) else "X"]
