"""Grids that fit a terminal: texts are folded, and what is still too wide becomes several grids. No figure is cut."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from cim_dg.results.grids import Grid

GAP, EDGES = 3, 2  # characters between two columns, and at both ends


class _Wrapper(textwrap.TextWrapper):
    """Breaks at spaces, after the slashes of paths and after hyphens between letters, but not in numbers as 1e-05."""

    wordsep_re = re.compile(r"(\s+|[^\s/]*?(?:/|(?<=[A-Za-z])-(?=[A-Za-z])))")


def fit(grid: Grid, width: int) -> list[Grid]:
    """The grid, or the grids of parts of its columns that begin with the same labels, within `width` where possible."""
    least = least_widths(grid)
    if _total(least) <= width:
        return [_narrowed(grid, least, width)]
    labels = next((place for place, numeric in enumerate(grid.numeric) if numeric), 1)
    groups: list[list[int]] = [[]]
    for column in range(labels, len(least)):
        if groups[-1] and _total([*least[:labels], *(least[other] for other in groups[-1]), least[column]]) > width:
            groups.append([])
        groups[-1].append(column)
    parts = []
    for number, group in enumerate(groups):
        columns = [*range(labels), *group]
        part = _chosen(grid, columns)
        part = _narrowed(part, [least[column] for column in columns], width)
        title = grid.title if number == 0 else f"{grid.title} (more columns)"
        parts.append(replace(part, title=title, notes=grid.notes if number == len(groups) - 1 else ()))
    return parts


def natural_widths(grid: Grid) -> list[int]:
    """The characters of each column as it is."""
    return [max(map(len, [name, *_cells(grid, column)])) for column, name in enumerate(grid.header)]


def least_widths(grid: Grid) -> list[int]:
    """The fewest characters that each column can do with: its figures are not folded, and neither are words."""
    widths = []
    for column, name in enumerate(grid.header):
        lines = _cells(grid, column)
        longest = max(map(len, lines), default=0) if grid.numeric[column] else _longest_chunk(lines)
        widths.append(max(_longest_chunk([name]), longest))
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1) + EDGES


def _cells(grid: Grid, column: int) -> list[str]:
    """The lines of a column below the header."""
    return [line for row in grid.rows for line in row[column]]


def _longest_chunk(texts: Sequence[str]) -> int:
    wrapper = _Wrapper()
    return max((len(chunk.strip()) for text in texts for chunk in wrapper._split(text)), default=0)


def _chosen(grid: Grid, columns: Sequence[int]) -> Grid:
    return replace(
        grid,
        header=[grid.header[column] for column in columns],
        numeric=[grid.numeric[column] for column in columns],
        rows=[[row[column] for column in columns] for row in grid.rows],
    )


def _narrowed(grid: Grid, least: Sequence[int], width: int) -> Grid:
    """The grid with the widest columns folded, to no less than `least` each, until it is as narrow as `width`."""
    widths = natural_widths(grid)
    while _total(widths) > width:
        foldable = [column for column, size in enumerate(widths) if size > least[column]]
        if not foldable:
            break
        widths[max(foldable, key=widths.__getitem__)] -= 1
    return replace(
        grid,
        header=["\n".join(_folded(text, size)) for text, size in zip(grid.header, widths, strict=True)],
        rows=[
            [
                cell if numeric else [part for line in cell for part in _folded(line, size)]
                for cell, size, numeric in zip(row, widths, grid.numeric, strict=True)
            ]
            for row in grid.rows
        ],
    )


def _folded(text: str, width: int) -> list[str]:
    return _Wrapper(width=max(width, 1), break_long_words=False).wrap(text) or [""]
