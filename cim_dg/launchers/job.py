"""A job of any harness, as launchers see it, and the code that runs one."""

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
from cim_dg.runtime import devices, locks, settings
from cim_dg.runtime.files import write_atomically

NOTES = ".cim-dg"
"""The folder of the launchers' notes, next to the jobs' folders."""


def two_gib() -> float:
    """The default estimate of a job's device memory."""
    return 2.0


@dataclass(frozen=True)
class Job:
    """One training, to be run once.

    Attributes:
        command: its arguments; `python` stands for this interpreter.
        folder: its own folder, absolute, which has its lock (`runtime.locks`) while it runs.
        resumes: whether it resumes when started again; if not, it starts in an empty folder.
        done: the file in `folder` that marks it as done.
        done_key: if that file is JSON, the entry that must be true.
        entry: "module:function" that does the same as the command, with `arguments`, and returns the exit code.
        arguments: the arguments of `entry`.
        cwd: its working directory.
        gib: returns the device memory that it needs, in GiB.
        cores: the number of cores that it needs.
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
        """The command with this interpreter in place of `python`, which on PATH may be another one or missing."""
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
        """The file of its failures. It is not in the job's folder, which is emptied before the job starts over."""
        return self.folder.parent / NOTES / f"{self.folder.name}.json"


class Ending(NamedTuple):
    """How an attempt at a job ended: its exit code (None if it was killed or could not start), and its last message."""

    code: int | None
    said: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed because a GPU ran out of memory."""
        return bool(self.code) and "out of memory" in self.said.lower()

    def failure(self, job: Job) -> str | None:
        """Why the job failed, as text; None if it did not fail, or was left to another process."""
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
    """Run a job in a separate process, which dies with this one.

    A job that is done is not run again. Unless the job resumes, the files of a killed attempt are removed from its
    folder, because DomainBed's `train` would append to its results.

    Args:
        job: the job.
        variables: environment variables to set in addition to this process' environment.
        prints: whether its output goes to this process' output, or nowhere.
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
    """The last line that a process printed into a file."""
    captured.seek(0)
    lines = captured.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def death(code: int) -> str:
    """A description of the exit code of a killed process."""
    if code >= 0:
        return f"its process died, exit code {code}"
    name = signal.Signals(-code).name
    return f"its process died, by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def clear(folder: Path, remove: bool = False) -> bool:
    """Empty or remove the folder of a job that starts over; returns False if another process is running the job.

    Raises:
        OSError: it cannot be emptied.
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
    """The number of the job's failures, and the reason of the last one."""
    try:
        noted = json.loads(job.failures_file.read_text(encoding="utf-8"))
        return int(noted["failures"]), str(noted["reason"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0, ""


def note_failure(job: Job, reason: str) -> None:
    """Note a failure, and count it unless the machine had no GPU. A full disk does not prevent the other jobs."""
    count = failures(job)[0] + (devices.REQUIRED not in reason)
    with contextlib.suppress(OSError):
        job.failures_file.parent.mkdir(exist_ok=True)
        note = {"failures": count, "reason": reason, "command": str(job)}
        write_atomically(job.failures_file, json.dumps(note) + "\n")


def passed_on(threads: int | None) -> dict[str, str]:
    """The variables for a job on another machine: our settings, Weights & Biases' variables, and PYTHONPATH."""
    ours = {name: value for name, value in os.environ.items() if name.startswith((settings.PREFIX, "WANDB_"))}
    if "PYTHONPATH" in os.environ:
        ours["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return ours | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
