"""What launchers note beside the folders of jobs, so that nobody clears a job that is running or about to."""

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
"""In the folder of notes: a line for each job submitted, with its number and the name of its folder."""


@contextlib.contextmanager
def announced(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Name the jobs in notes beside their folders that hold as long as this process lives."""
    with contextlib.ExitStack() as stack:
        for parent in {job.folder.parent for job in jobs}:
            if not parent.is_dir():
                parent.mkdir(parents=True)
            note = _new_note(parent / NOTES)
            stack.callback(_remove, note)
            claimed = locks.claim(note)
            assert claimed is not None  # nobody else knows of it yet
            stack.enter_context(claimed)
            names = [job.folder.name for job in jobs if job.folder.parent == parent]
            (note / "jobs.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        yield jobs


def busy(folders: Collection[Path]) -> set[Path]:
    """Those of the folders whose jobs may be running, or wait for their turn: they must not be cleared.

    That is, another process has claimed it, a live launcher or Slurm has it in its list, or it has no lock and was
    written to recently.

    Raises:
        UserError: Slurm does not answer.
    """
    waiting = {parent / name for parent in {folder.parent for folder in folders} for name in _waiting(parent)}
    return {f for f in folders if f in waiting or (f.is_dir() and any(f.iterdir()) and locks.may_be_running(f))}


def note_submitted(jobs: Sequence[Job], number: str) -> None:
    """Note that Slurm has jobs under a number."""
    for job in jobs:
        place = job.folder.parent / NOTES
        place.mkdir(exist_ok=True)
        with open(place / SLURM, "a", encoding="utf-8") as file:
            file.write(f"{number} {job.folder.name}\n")


def queued_in_slurm(parent: Path) -> set[str]:
    """The names of those jobs' folders in `parent` that Slurm still has pending or running.

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
    """Remove the folders that sweep made for jobs which were not started: they would count as incomplete."""
    with contextlib.suppress(UserError):  # if it cannot be told which jobs Slurm has, all folders stay
        for folder in set(folders) - busy(folders):
            with contextlib.suppress(OSError):  # it is not empty, or not there
                folder.rmdir()


def _new_note(place: Path) -> Path:
    while True:
        place.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another launcher has just removed the empty folder
            return Path(tempfile.mkdtemp(dir=place, prefix="launch-"))


def _remove(note: Path) -> None:
    shutil.rmtree(note, ignore_errors=True)
    with contextlib.suppress(OSError):  # there are other notes
        note.parent.rmdir()


def _waiting(parent: Path) -> set[str]:
    """The names of the jobs' folders in `parent` that live launchers, and Slurm, have in their lists."""
    names = queued_in_slurm(parent)
    for note in (parent / NOTES).glob("launch-*"):
        if locks.is_claimed(note):
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                names |= set((note / "jobs.txt").read_text(encoding="utf-8").split("\n"))
        elif os.access(note, os.W_OK) and not locks.is_fresh(note):
            shutil.rmtree(note, ignore_errors=True)  # its launcher was killed
    return names - {""}
