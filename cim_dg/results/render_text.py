"""Grids as text: in a file whole, in a terminal folded to its width; no figure is cut."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cim_dg.results.fit import fit
from cim_dg.results.grids import Grid

_WIDEST = 10_000
_NOTE_WIDTH = 110


def for_stdout(grids: Sequence[Grid]) -> str:
    """All grids as stdout takes them: with styles and within its width where it is a terminal."""
    if not sys.stdout.isatty():
        return render(grids)
    return render(grids, colour=True, width=shutil.get_terminal_size().columns)


def render(grids: Sequence[Grid], colour: bool = False, width: int | None = None) -> str:
    """All grids, one below the other.

    Args:
        grids: what to print.
        colour: whether to use ANSI styles.
        width: the characters of a line; without it a table takes what it needs.
    """
    if width is not None:
        grids = [part for grid in grids for part in fit(grid, width)]
    out = io.StringIO()
    console = Console(
        file=out, width=_WIDEST, force_terminal=colour, color_system="standard" if colour else None, highlight=False
    )
    for grid in grids:
        console.print(Text(textwrap.fill(grid.title, width or _WIDEST), style="bold"))
        if grid.rows:
            console.print(_table(grid))
        for note in grid.notes:
            console.print(Text(textwrap.fill(note, min(_NOTE_WIDTH, width or _WIDEST), subsequent_indent="  ")))
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
