"""The start of every command of the stand-in (the notice) and its end (one sentence and an exit code)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Protocol

from cim_dg.errors import exit_code, plain_warnings
from cim_dg.runtime import settings

NOTICE = (
    "This is cim-dg's stand-in for DomainBed. To use the real one: git clone "
    "https://github.com/facebookresearch/DomainBed, then run inside the clone or put it on PYTHONPATH."
)
TASKS = ["domain_generalization", "domain_adaptation"]
ANNOUNCED = "CIM_DG_STANDIN_ANNOUNCED"
"""Environment variable that a sweep sets for its jobs, so that they do not repeat the notice on the terminal."""


class Writable(Protocol):
    """The methods of a stream that `print` needs."""

    def write(self, text: str, /) -> object:
        """Write the text."""

    def flush(self) -> object:
        """Write out what is buffered."""


def announce(stream: Writable | None = None) -> None:
    """Write the notice that this is not the real DomainBed to `stream` (default: stderr)."""
    print(NOTICE, file=stream or sys.stderr, flush=True)


def announced() -> bool:
    """Whether the command that started this one has announced the stand-in already."""
    return settings.get(ANNOUNCED)


def run(function: Callable[[], None]) -> int:
    """Call `function` and return the command's exit code (see `cim_dg.errors.exit_code`); 2 for NotImplementedError.

    A user's error is one sentence on stderr. A traceback means a bug.
    """
    plain_warnings(Warning)
    try:
        return exit_code(function)
    except NotImplementedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
