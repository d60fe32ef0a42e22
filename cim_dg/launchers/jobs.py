"""What our launchers share: to run one job, wherever that is, and to tell of those that failed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cim_dg.launchers import watchdog


def run(command: str, environment: Mapping[str, str]) -> str | None:
    """Run a job with this Python. None, or the failed command with the last line it printed on stderr."""
    return _run(command, with_this_python(command), shell=True, env=environment)


def run_on_worker(command: str, folder: str, variables: Mapping[str, str], resumes: bool) -> str | None:
    """Run a job, from `folder`, on a worker that may be killed, or given the job of one that was. Returns as `run`.

    The job dies with this process. One that has finished is not run again. Unless jobs resume, as the stand-in's do,
    what a killed attempt has left in the job's folder is removed: DomainBed's `train` would add to its results.
    """
    output = Path(folder, output_dir(command))
    if (output / "done").exists():
        return None
    if not resumes and output.is_dir():
        shutil.rmtree(output)
        output.mkdir()
    words = [sys.executable, "-IS", watchdog.__file__, str(os.getpid()), with_this_python(command)]
    return _run(command, words, cwd=folder, env=os.environ | variables, start_new_session=True)


def is_standin() -> bool:
    """Whether the DomainBed at hand is our stand-in, whose jobs, started again, go on where they were."""
    try:
        return bool(getattr(import_module("domainbed"), "STANDIN", False))
    except ImportError:
        return False


def with_this_python(command: str) -> str:
    """The command with this interpreter in place of `python`, which may be another one, or none, on PATH."""
    return re.sub(r"^python(?= )", lambda _: shlex.quote(sys.executable), command)


def output_dir(command: str) -> str:
    """The folder of a command's job.

    Raises:
        ValueError: it is no command of `domainbed.scripts.train`.
    """
    words = shlex.split(command)
    return words[words.index("--output_dir") + 1]


def forget(commands: Sequence[str]) -> None:
    """Remove the folders that sweep has just made for jobs that are not started, which would count as incomplete."""
    for command in commands:
        with contextlib.suppress(OSError, ValueError, IndexError):  # not empty, not there, or no such flag
            os.rmdir(output_dir(command))


def report(failures: Sequence[str], total: int) -> None:
    """Name the jobs that failed, if some did, and end the command with exit code 1."""
    if failures:
        print(f"{len(failures)} of {total} jobs failed:", *failures, sep="\n", file=sys.stderr)
        raise SystemExit(1)


def _run(command: str, words: str | list[str], **options: Any) -> str | None:
    with tempfile.TemporaryFile() as errors:
        code = subprocess.call(words, stdout=subprocess.DEVNULL, stderr=errors, **options)
        if code == 0:
            return None
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"{command}\n    exit code {code}: {lines[-1] if lines else 'nothing on stderr'}"
