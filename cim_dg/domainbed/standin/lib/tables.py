"""The tables of collect_results: mean accuracies with standard errors, as text or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .misc import print_row


def mean_and_error(accuracies: Sequence[float], latex: bool) -> tuple[float | None, str]:
    """Mean in percent (None if there is nothing), and it as text with its standard error (ddof 0)."""
    if len(accuracies) == 0:
        return None, "X"
    mean = 100 * np.mean(accuracies)
    error = 100 * np.std(np.asarray(accuracies) / np.sqrt(len(accuracies)))
    sign = "$\\pm$" if latex else "+/-"
    return float(mean), f"{mean:.1f} {sign} {error:.1f}"


def row(label: str, cells: Sequence[Sequence[float]], latex: bool) -> list[str]:
    """A row of a table: `label`, a cell for each list of accuracies, and the mean over all cells if none is empty."""
    means, texts = [], [label]
    for accuracies in cells:
        mean, text = mean_and_error(accuracies, latex)
        texts.append(text)
        if mean is not None:
            means.append(mean)
    texts.append(f"{sum(means) / len(means):.1f}" if means and len(means) == len(cells) else "X")
    return texts


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], colwidth: int, latex: bool) -> None:
    """Print a table to stdout; LaTeX needs no title, it has headings around the table."""
    print()
    if not latex:
        print("--------", title)
        for cells in [columns, *rows]:
            print_row(cells, colwidth=colwidth)
        return
    print("\\begin{center}")
    print("\\adjustbox{max width=\\textwidth}{%")
    print("\\begin{tabular}{l" + "c" * (len(columns) - 1) + "}")
    print("\\toprule")
    print_row(["\\textbf{" + column.replace("%", "\\%") + "}" for column in columns], colwidth=colwidth, latex=True)
    print("\\midrule")
    for cells in rows:
        print_row(cells, colwidth=colwidth, latex=True)
    print("\\bottomrule")
    print("\\end{tabular}}")
    print("\\end{center}")
