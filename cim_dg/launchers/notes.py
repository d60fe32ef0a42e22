"""The launchers' notes next to the jobs' folders, so that no process clears a running or waiting job."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from getpass import getuser
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.launchers.job import NOTES, Job
from cim_dg.runtime import locks, settings

SLURM = "slurm.txt"
"""In the folder of notes: a line for each submitted job, with its Slurm number and the name of its folder."""


@contextlib.contextmanager
def announced(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Announce the jobs in notes next to their folders. A note is valid while this process lives."""
    with contextlib.ExitStack() as stack:
        for parent in {job.folder.parent for job in jobs}:
            if not parent.is_dir():
                parent.mkdir(parents=True)
            note = _new_note(parent / NOTES)
            stack.callback(_remove, note)
            claimed = locks.claim(note)
            assert claimed is not None  # no other process knows it yet
            stack.enter_context(claimed)
            names = [job.folder.name for job in jobs if job.folder.parent == parent]
            (note / "jobs.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        yield jobs


def busy(folders: Collection[Path]) -> set[Path]:
    """The folders whose jobs may be running or waiting, and which must not be cleared.

    Another process has claimed such a folder, a live launcher or Slurm has its job in a list, or it has no lock and
    was written to recently.

    Raises:
        UserError: Slurm does not answer.
    """
    waiting = {parent / name for parent in {folder.parent for folder in folders} for name in _waiting(parent)}
    return {f for f in folders if f in waiting or (f.is_dir() and any(f.iterdir()) and locks.may_be_running(f))}


def note_submitted(jobs: Sequence[Job], number: str) -> None:
    """Note that Slurm has the jobs under a number."""
    for job in jobs:
        place = job.folder.parent / NOTES
        place.mkdir(exist_ok=True)
        with open(place / SLURM, "a", encoding="utf-8") as file:
            file.write(f"{number} {job.folder.name}\n")


def queued_in_slurm(parent: Path) -> set[str]:
    """The names of the folders in `parent` whose jobs Slurm still has pending or running.

    Raises:
        UserError: squeue fails.
    """
    noted = parent / NOTES / SLURM
    if not noted.exists():
        return set()
    ids = slurm_numbers()
    pairs = (line.split(" ", 1) for line in noted.read_text(encoding="utf-8").splitlines())
    return {name for number, name in pairs if number in ids}


def slurm_numbers() -> set[str]:
    """The numbers of this user's tasks that Slurm has pending or running; none without Slurm.

    Raises:
        UserError: squeue fails.
    """
    if shutil.which("squeue") is None or settings.get("CIM_DG_SLURM_CLUSTER") != "slurm":
        return set()
    squeue = ["squeue", "--noheader", "--array", "--user", getuser(), "--format", "%i"]
    asked = subprocess.run(squeue, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UserError(f"squeue cannot be asked which jobs are queued: {asked.stderr.strip()}")
    return set(asked.stdout.split())


def free(folders: Collection[Path]) -> None:
    """Remove the folders of jobs that were not started. They would count as incomplete."""
    with contextlib.suppress(UserError):  # if Slurm's jobs are unknown, all folders stay
        for folder in set(folders) - busy(folders):
            with contextlib.suppress(OSError):  # it is not empty, or missing
                folder.rmdir()


def _new_note(place: Path) -> Path:
    while True:
        place.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another launcher just removed the empty folder
            return Path(tempfile.mkdtemp(dir=place, prefix="launch-"))


def _remove(note: Path) -> None:
    shutil.rmtree(note, ignore_errors=True)
    with contextlib.suppress(OSError):  # there are other notes
        note.parent.rmdir()


def _waiting(parent: Path) -> set[str]:
    """The names of the folders in `parent` whose jobs are in a list of a live launcher or of Slurm."""
    names = queued_in_slurm(parent)
    for note in (parent / NOTES).glob("launch-*"):
        if locks.is_claimed(note):
            with contextlib.suppress(FileNotFoundError):  # the launcher ended meanwhile
                names |= set((note / "jobs.txt").read_text(encoding="utf-8").split("\n"))
        elif os.access(note, os.W_OK) and not locks.is_fresh(note):
            shutil.rmtree(note, ignore_errors=True)  # its launcher was killed
    return names - {""}
