"""A claim on a job's folder, so that no two processes ever run one job."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".lock"
PATIENCE = 1.0
"""Seconds to wait for a claim that is held: who only looks whether it is (`is_claimed`) has it for an instant."""

# filelock takes flock(2): the kernel releases it when its owner dies, however that dies, so that no stale lock has to
# be told from a live one by age or process number. On NFS, Linux passes it on to the server, which every machine asks,
# and which drops it when the lease of a dead machine runs out (unless mounted with `nolock`). The file itself means
# nothing and is left where it is: removing it could let two processes lock two files of one name.


def claim(folder: str | os.PathLike[str]) -> AbstractContextManager[object] | None:
    """Claim `folder`, which exists, until the context that is returned ends; None if another process has it.

    Raises:
        OSError: the lock's file cannot be made.
    """
    try:
        return FileLock(Path(folder, NAME)).acquire(timeout=PATIENCE)
    except Timeout:
        return None


def is_claimed(folder: str | os.PathLike[str]) -> bool:
    """Whether a live process has claimed `folder`."""
    path = Path(folder, NAME)
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's file: whoever may not write there cannot tell
        return False
    lock.release()
    return False
