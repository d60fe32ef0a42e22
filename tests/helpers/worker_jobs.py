"""Jobs that are no training, for the tests of launchers, and waiting for what becomes of them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path


def job(folder: Path, code: str) -> str:
    """A command as a sweep makes them, for a job that runs `code`; its folder is made, as sweep does."""
    folder.mkdir(exist_ok=True)
    return f"python -c {shlex.quote(code)} --output_dir {shlex.quote(str(folder))}"


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
