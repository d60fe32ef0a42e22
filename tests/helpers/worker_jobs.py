"""Jobs that are no training, for the tests of launchers, and waiting for what becomes of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cim_dg.launchers import Job


def job(folder: Path, code: str, resumes: bool = True, **fields: Any) -> Job:
    """A job that runs `code`, and is done if nothing was raised; its folder is made, as sweep does."""
    folder.mkdir(parents=True, exist_ok=True)
    code += f"\nopen({str(folder / 'done')!r}, 'w').write('done')"
    return Job(("python", "-c", code), folder.absolute(), resumes, **fields)


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to hold."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def children_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(path.parent.name))
    return children
