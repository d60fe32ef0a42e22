"""A job as launchers know it, whatever harness made it, and what is common to running one anywhere."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from cim_dg.errors import LEFT
from cim_dg.launchers import watchdog
from cim_dg.runtime import locks, settings
from cim_dg.runtime.files import write_atomically

NOTES = ".cim-dg"
"""The folder, beside those of the jobs, in which launchers note what they do."""


def two_gib() -> float:
    """The device memory of a job of which no more is known."""
    return 2.0


@dataclass(frozen=True)
class Job:
    """One training, to be run once.

    Attributes:
        command: its words; `python` stands for this interpreter.
        folder: its own folder, absolute, where it keeps its lock (`runtime.locks`) while it runs.
        resumes: whether it goes on where it was when started again; one that does not starts in an empty folder.
        done: the file in `folder` that says it is done.
        done_key: if that file is JSON, the entry that must be true.
        entry: "module:function" that does what the command does, given `arguments`, and returns the exit code.
        arguments: of `entry`.
        cwd: the folder it is started in.
        gib: tells the device memory it needs, in GiB.
        cores: how many it needs.
    """

    command: tuple[str, ...]
    folder: Path
    resumes: bool
    done: str = "done"
    done_key: str | None = None
    entry: str | None = None
    arguments: tuple[str, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)
    gib: Callable[[], float] = two_gib
    cores: int = 1

    def __str__(self) -> str:
        return shlex.join(self.command)

    def words(self) -> list[str]:
        """The command with this interpreter in place of `python`, which may be another one, or none, on PATH."""
        return [sys.executable if word == "python" and not place else word for place, word in enumerate(self.command)]

    def is_done(self) -> bool:
        """Whether it has finished."""
        path = self.folder / self.done
        if self.done_key is None:
            return path.exists()
        try:
            return bool(json.loads(path.read_text(encoding="utf-8"))[self.done_key])
        except (OSError, ValueError, LookupError, TypeError):
            return False

    @property
    def failures_file(self) -> Path:
        """Where its failures are noted: not in its folder, which is emptied before it starts over."""
        return self.folder.parent / NOTES / f"{self.folder.name}.json"


class Ending(NamedTuple):
    """How an attempt at a job ended: its exit code (None: it was killed, or not to be had), and the last thing said."""

    code: int | None
    said: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed because a GPU had no memory left."""
        return bool(self.code) and "out of memory" in self.said.lower()

    def failure(self, job: Job) -> str | None:
        """Why the job failed, in words; None if it did not, or was left to another process."""
        if self.code == LEFT or (self.code == 0 and job.is_done()):
            return None
        if self.code is None:
            return self.said
        return f"exit code {self.code}: {self.said or ('it is not done' if self.code == 0 else 'nothing on stderr')}"


def run(
    job: Job,
    variables: Mapping[str, str],
    prints: bool = False,
    started: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Ending:
    """Run a job in a process of its own, which dies with this one.

    One that is done is not run again. Unless jobs resume, what a killed attempt left in the job's folder is removed:
    DomainBed's `train` would add to its results.

    Args:
        job: what to run.
        variables: set on top of this process' environment.
        prints: whether what it prints goes where this process prints, or nowhere.
        started: called with the process.
    """
    if job.is_done():
        return Ending(0)
    if not job.resumes and not clear(job.folder):
        return Ending(LEFT)
    words = [sys.executable, "-IS", watchdog.__file__, str(os.getpid()), *job.words()]
    environment = os.environ | variables
    with contextlib.ExitStack() as stack:
        captured = None if prints else stack.enter_context(tempfile.TemporaryFile())
        stdout = None if prints else subprocess.DEVNULL
        process = subprocess.Popen(
            words, cwd=job.cwd, env=environment, stdout=stdout, stderr=captured, start_new_session=True
        )
        if started is not None:
            started(process)
        code = process.wait()
        said = "what it printed is above" if captured is None else last_said(captured)
    return Ending(None, f"{death(code)}: {said}") if code < 0 else Ending(code, said)


def last_said(captured: IO[bytes]) -> str:
    """The last line of what a process printed into a file."""
    captured.seek(0)
    lines = captured.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def death(code: int) -> str:
    """In words, the exit code of a process that did not end by itself."""
    if code >= 0:
        return f"its process died, exit code {code}"
    name = signal.Signals(-code).name
    return f"its process died, by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def clear(folder: Path, remove: bool = False) -> bool:
    """Empty the folder of a job that starts over, or remove it; False if another process is running the job.

    Raises:
        OSError: it cannot be.
    """
    if not folder.is_dir() or not (remove or any(folder.iterdir())):
        return True
    claimed = locks.claim(folder)
    if claimed is None:
        return False
    with claimed:
        for path in folder.iterdir():
            if path.name != locks.NAME:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if remove:
            (folder / locks.NAME).unlink(missing_ok=True)
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return False  # another process has started the job since the lock was removed
    return True


def failures(job: Job) -> tuple[int, str]:
    """How often the job has failed, and why the last time."""
    try:
        noted = json.loads(job.failures_file.read_text(encoding="utf-8"))
        return int(noted["failures"]), str(noted["reason"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0, ""


def note_failure(job: Job, reason: str) -> None:
    """Count a failure. A disk that is full does not keep the other jobs from running."""
    with contextlib.suppress(OSError):
        job.failures_file.parent.mkdir(exist_ok=True)
        write_atomically(job.failures_file, json.dumps({"failures": failures(job)[0] + 1, "reason": reason}) + "\n")


def passed_on(threads: int | None) -> dict[str, str]:
    """The variables that a job finds on another machine: our settings, those of Weights & Biases, and where code is."""
    ours = {name: value for name, value in os.environ.items() if name.startswith((settings.PREFIX, "WANDB_"))}
    if "PYTHONPATH" in os.environ:
        ours["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return ours | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
