"""Grids as Markdown tables (GitHub's dialect)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cim_dg.results.grids import Grid

_SPECIAL = re.compile(r"([\\`*_|<])")


def render(grids: Sequence[Grid]) -> str:
    """All grids, each under a heading, its notes as a list."""
    return "\n".join(_grid(grid) for grid in grids)


def _grid(grid: Grid) -> str:
    lines = [f"### {_escape(grid.title)}", ""]
    if grid.rows:
        lines += [
            _row([_escape(name) for name in grid.header]),
            _row(["---:" if numeric else "---" for numeric in grid.numeric]),
        ]
        lines += [_row(["<br>".join(_escape(line) for line in cell) for cell in row]) for row in grid.rows]
        lines.append("")
    lines += [f"- {_escape(note)}" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
