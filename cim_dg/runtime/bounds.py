"""Types of argparse's options: numbers within bounds, refused where they enter."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

SEED = 2**32 - 1
"""The largest seed that NumPy takes."""


def whole(least: int = 0, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return value

    return read


def share(zero: bool = False) -> Callable[[str], float]:
    """The type of an option that takes numbers between 0 and 1, without the ends, or with 0 if `zero`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0 < value < 1 or (zero and value == 0)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {'0 or ' if zero else ''}a number between 0 and 1")
        return value

    return read
