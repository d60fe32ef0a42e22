"""Where a job pauses in a search by successive halving: known to the sweep, the launchers and the jobs of each harness.

A job that is started with CIM_DG_RUNG = d trains to its first checkpoint at or after 1/d of its length, keeps that
checkpoint, and leaves the file `rung-d`, by which its launcher knows that it is done. Started again with a smaller d,
or without, it goes on from there, to the results of a training without a pause.
"""

from __future__ import annotations

import os
from pathlib import Path

from cim_dg.runtime import settings
from cim_dg.runtime.files import write_atomically

VARIABLE = "CIM_DG_RUNG"


def checkpoint_at(divisor: int, last: int, interval: int) -> int:
    """The first multiple of `interval` at or after `last` / `divisor`; before `last` >= `divisor` * `interval`."""
    return interval * -(-last // (divisor * interval))


def marker(divisor: int) -> str:
    """The file of a job that has come to 1/`divisor` of its length."""
    return f"rung-{divisor}"


def current_marker() -> str | None:
    """The file that marks the jobs of this process' rung as done; None if they train to their end."""
    divisor = settings.get(VARIABLE)
    return None if divisor is None else marker(divisor)


def pause(last: int, interval: int) -> int | None:
    """The step or epoch after which a job of this length pauses; None if it trains to its end."""
    divisor = settings.get(VARIABLE)
    return None if divisor is None else checkpoint_at(divisor, last, interval)


def has_paused(folder: str | os.PathLike[str]) -> bool:
    """Whether a job has been at a rung."""
    return any(Path(folder).glob("rung-*"))


def reached(folder: str | os.PathLike[str]) -> None:
    """Mark the job as done for this process' rung, if there is one."""
    if name := current_marker():
        write_atomically(Path(folder, name), "")


def start_over(folder: str | os.PathLike[str]) -> None:
    """Remove the marks of a job that starts from the beginning."""
    for path in Path(folder).glob("rung-*"):
        path.unlink(missing_ok=True)
