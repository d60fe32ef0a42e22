"""A job of a sweep, whichever harness runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_STARTED, UNFINISHED, DONE = "not started", "unfinished", "done"


@dataclass(frozen=True)
class Job:
    """One training run: what it trains, where, its state, the seconds it took, if done and known, and its arguments."""

    dataset: str
    algorithm: str
    about: str
    folder: Path
    state: str
    seconds: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command of the harness, the jobs that it runs, and files that must be written before (path to text)."""

    words: list[str]
    jobs: list[Job]
    files: Mapping[Path, str] = field(default_factory=dict)
