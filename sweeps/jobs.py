"""A planned run of a sweep, of any harness. (Launchers run `cim_dg.launchers.Job`.)"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.runtime.schema import suggestion

NOT_STARTED, UNFINISHED, DONE = "not started", "unfinished", "done"


@dataclass(frozen=True)
class Job:
    """One training run: its data set and algorithm, folder, state, seconds (if done and known), and arguments."""

    dataset: str
    algorithm: str
    about: str
    folder: Path
    state: str
    seconds: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command of the harness, the jobs that it runs, and the files to write before it (path to text)."""

    words: list[str]
    jobs: list[Job]
    files: Mapping[Path, str] = field(default_factory=dict)


def seconds_left(jobs: Iterable[Job], missing: Iterable[Job]) -> float | None:
    """The seconds of all missing jobs in sequence, estimated from the done ones of `jobs`; None if none is done."""
    known: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        if job.seconds is not None:
            known.setdefault((job.dataset, job.algorithm), []).append(job.seconds)
    if not known:
        return None
    overall = statistics.median([value for values in known.values() for value in values])
    per_algorithm = {key: statistics.median(seconds) for key, seconds in known.items()}
    return sum(per_algorithm.get((job.dataset, job.algorithm), overall) for job in missing)


def guessed(jobs: Iterable[Job], missing: Iterable[Job]) -> str:
    """What `seconds_left` assumes of methods of which no job is done, as a sentence after a space; "" if of none."""
    known = {(job.dataset, job.algorithm) for job in jobs if job.seconds is not None}
    names = dict.fromkeys(job.algorithm for job in missing if (job.dataset, job.algorithm) not in known)
    return f" Not timed yet, and counted as the others: {', '.join(names)}." if names else ""


def duration(seconds: float) -> str:
    """Seconds as text."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def check_launcher(name: str, known: Iterable[str]) -> None:
    """Check that a launcher is one of the `known`.

    Raises:
        UserError: it is not.
    """
    names = list(known)
    if name not in names:
        raise UserError(f"there is no launcher {name!r}; there are {', '.join(names)}{suggestion(name, names)}")
