"""Grids as LaTeX with booktabs: a document that compiles as it is, and whose tables can be copied out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cim_dg.results.grids import Grid

_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=1cm,landscape]{geometry}
\usepackage{booktabs,longtable}
\begin{document}
\small
\setlength{\LTleft}{0pt}
"""

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "—": "---",
    "†": r"\textdagger{}",
    "…": r"\dots{}",
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def render(grids: Sequence[Grid]) -> str:
    """All grids as one document (\\documentclass to \\end{document})."""
    return _HEAD + "".join(_grid(grid) for grid in grids) + "\\end{document}\n"


def escape(text: str) -> str:
    """Plain text as LaTeX; characters that no font of LaTeX's own has are shown by their number."""
    escaped = _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)
    # A minus before a digit, not the hyphen of a name; and what T1 does not have.
    escaped = re.sub(r"(?<![\w}])-(?=\d)", "$-$", escaped)
    return "".join(character if ord(character) < 0x180 else f"(U+{ord(character):04X})" for character in escaped)


def _grid(grid: Grid) -> str:
    lines = [f"\n\\subsection*{{{escape(grid.title)}}}"]
    if grid.rows:
        lines += [
            f"\\begin{{longtable}}{{{''.join('r' if numeric else 'l' for numeric in grid.numeric)}}}",
            "\\toprule",
            _row([escape(name) for name in grid.header]),
            "\\midrule",
            "\\endhead",
        ]
        for number, row in enumerate(grid.rows):
            if number and grid.faint[number] and not grid.faint[number - 1]:
                lines.append("\\midrule")
            # A cell's second line, its interval, stands in a row of its own, so that no package beyond booktabs is
            # needed.
            for place in range(max(map(len, row))):
                texts = [escape(cell[place]) if place < len(cell) else "" for cell in row]
                lines.append(_row(texts if place == 0 else [f"\\scriptsize {text}" if text else "" for text in texts]))
        lines += ["\\bottomrule", "\\end{longtable}"]
    lines += [f"\\noindent {escape(note)}\\par" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    # A cell that begins with a bracket would be read as an argument of the \\ before it.
    return " & ".join(f"{{}}{cell}" if cell.startswith("[") else cell for cell in cells) + " \\\\"
