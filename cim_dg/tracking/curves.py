"""Curves from the records of runs, updated while the runs go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cim_dg.results.read import read
from cim_dg.results.records import Run
from cim_dg.tracking.writers import WRITERS, Writer, check

Checkpoint = tuple[int, dict[str, float]]


@dataclass
class _Written:
    """How much of a run has been written; no writers once the run has finished."""

    checkpoints: int = 0
    writers: list[Writer] = field(default_factory=list)


class Curves:
    """The curves of every run in or below `folders`, for each of `targets` (see `WRITERS`).

    Raises:
        UserError: a target is unknown or not installed.
    """

    def __init__(self, folders: Sequence[str | Path], targets: Sequence[str]) -> None:
        check(targets)
        self._folders, self._targets = folders, targets
        self._runs: dict[Path, _Written] = {}

    def update(self) -> int:
        """Write the new checkpoints; returns the number of runs.

        Raises:
            UserError: a folder does not exist, or has no results.
        """
        records = read(self._folders)
        for number, rows in records.frame.groupby("run", sort=False):
            self._write(records.runs[number], _checkpoints(rows))
        return len(self._runs)

    def _write(self, run: Run, checkpoints: list[Checkpoint]) -> None:
        written = self._runs.setdefault(run.folder, _Written())
        if len(checkpoints) < written.checkpoints:  # the job was started again
            _close(written)
            written.checkpoints = 0
        new = checkpoints[written.checkpoints :]
        if new and not written.writers:
            # The run went on after it had finished, and its writers are closed: write all of it again.
            new = checkpoints
            written.writers = [WRITERS[target](run) for target in self._targets]
        for step, values in new:
            for writer in written.writers:
                writer.add(step, values)
        written.checkpoints = len(checkpoints)
        if run.finished:
            _close(written)

    def close(self) -> None:
        """Flush the curves of unfinished runs."""
        for written in self._runs.values():
            _close(written)


def _close(written: _Written) -> None:
    for writer in written.writers:
        writer.close()
    written.writers = []


def _checkpoints(rows: Any) -> list[Checkpoint]:
    """The checkpoints of a run: the step, and values with names such as train/loss and env0_in/acc."""
    checkpoints: dict[int, Checkpoint] = {}
    columns = (rows[name] for name in ("checkpoint", "step", "split", "metric", "value"))
    for checkpoint, step, split, metric, value in zip(*columns, strict=True):
        checkpoints.setdefault(checkpoint, (int(step), {}))[1][f"{split}/{metric}"] = float(value)
    return list(checkpoints.values())
