"""Rows of a table in DomainBed's format: every cell has the same number of characters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def format_row(cells: Iterable[object], width: int = 10, latex: bool = False) -> str:
    """One row, every cell cut or padded to `width` characters; floats have ten decimal places."""
    texts = [f"{cell:.10f}" if isinstance(cell, (float, np.floating)) else str(cell) for cell in cells]
    separator, end = (" & ", " \\\\") if latex else ("  ", " ")
    return separator.join(text.ljust(width)[:width] for text in texts) + end
