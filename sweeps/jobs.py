"""A job of a sweep, whichever harness runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NOT_STARTED, UNFINISHED, DONE = "not started", "unfinished", "done"


@dataclass(frozen=True)
class Job:
    """One training run: what it trains, where, its state, and the seconds it took, if done and known."""

    dataset: str
    algorithm: str
    about: str
    folder: Path
    state: str
    seconds: float | None = None


@dataclass(frozen=True)
class Command:
    """A command of the harness, and the jobs that it runs."""

    words: list[str]
    jobs: list[Job]
