"""Grids as text for a terminal or a file, never cut to a width."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cim_dg.results.grids import Grid

_WIDEST = 10_000  # tables have their full width: a terminal may wrap their lines
_NOTE_WIDTH = 110


def render(grids: Sequence[Grid], colour: bool = False) -> str:
    """All grids, one below the other, with ANSI styles if `colour` is set."""
    out = io.StringIO()
    console = Console(
        file=out, width=_WIDEST, force_terminal=colour, color_system="standard" if colour else None, highlight=False
    )
    for grid in grids:
        console.print(Text(grid.title, style="bold"))
        if grid.rows:
            console.print(_table(grid))
        for note in grid.notes:
            console.print(Text(textwrap.fill(note, _NOTE_WIDTH, subsequent_indent="  ")))
        console.print()
    # Rich pads short lines with spaces.
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip("\n") + "\n"


def _table(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, numeric in zip(grid.header, grid.numeric, strict=True):
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True)
    for row, faint in zip(grid.rows, grid.faint, strict=True):
        table.add_row(*(Text("\n".join(lines)) for lines in row), style="dim" if faint else "")
    return table
