"""Grids as LaTeX with booktabs: a complete document, from which the tables can be copied."""

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
    """Plain text as LaTeX. Characters that LaTeX's own fonts lack are shown by their number."""
    escaped = _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)
    # A minus before a digit, unlike a name's hyphen; and characters that T1 lacks.
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
            # A cell's second line, its interval, is a separate row, so that only booktabs is needed.
            for line in range(max(map(len, row))):
                texts = [escape(cell[line]) if line < len(cell) else "" for cell in row]
                lines.append(_row(texts if line == 0 else [f"\\scriptsize {text}" if text else "" for text in texts]))
        lines += ["\\bottomrule", "\\end{longtable}"]
    lines += [f"\\noindent {escape(note)}\\par" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    # LaTeX would read a cell that begins with a bracket as an argument of the \\ before it.
    return " & ".join(f"{{}}{cell}" if cell.startswith("[") else cell for cell in cells) + " \\\\"
