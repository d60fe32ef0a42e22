"""A claim on a folder, so that no two processes run the same job, and locks to wait for."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.runtime import settings

NAME = ".lock"
PATIENCE = 1.0
"""Seconds to wait for a held claim: `is_claimed` holds it for an instant to check it."""
FRESH = 15 * 60
"""A job without a lock may be running if a file of its folder was written within this many seconds."""
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

# The kernel releases a lock of flock(2) when its owner dies for any reason, so stale locks do not exist and need no
# check by age or process id. On NFS, Linux passes it to the server, which all machines ask, and which drops it when the
# lease of a dead machine expires (unless mounted with `nolock`). A file system without flock is an error, because a
# plain lock file would outlive its owner.


class NoLocks(UserError):
    """The file system has no locks."""


def claim(folder: str | os.PathLike[str]) -> AbstractContextManager[object] | None:
    """Claim the existing `folder` until the returned context ends; None if another process has it.

    Raises:
        OSError: the lock file cannot be created.
        NoLocks: the file system has none.
    """
    try:
        return wait_for(Path(folder, NAME), PATIENCE, interval=0.05)
    except TimeoutError:
        return None


def wait_for(
    path: Path, seconds: float, interval: float = 0.5, waiting: Callable[[float], bool] | None = None
) -> AbstractContextManager[object]:
    """Lock the file `path` until the returned context ends. The file's content has no meaning.

    Args:
        path: the file; its folder exists.
        seconds: the time to wait while another process has it.
        interval: seconds between two attempts.
        waiting: called before each new attempt with the seconds waited; returns whether to restart the wait.

    Raises:
        TimeoutError: another process had it for that long.
        OSError: the file cannot be made.
        NoLocks: the file system has none.
    """
    if not settings.get("CIM_DG_LOCKS"):
        return contextlib.nullcontext()
    start = first_attempt = time.monotonic()
    while (handle := _lock(path)) is None:
        now = time.monotonic()
        if waiting is not None and waiting(now - first_attempt):
            start = now
        if now - start >= seconds:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
        time.sleep(interval)
    stack = contextlib.ExitStack()
    stack.callback(os.close, handle)
    return stack


def is_claimed(folder: str | os.PathLike[str]) -> bool:
    """Whether a live process has claimed `folder`."""
    if not settings.get("CIM_DG_LOCKS"):
        return False
    try:
        handle = _lock(Path(folder, NAME), os.O_RDWR)
    except OSError:  # there is no lock, or this user may not write another user's: unknown
        return False
    if handle is not None:
        os.close(handle)
    return handle is None


def may_be_running(folder: Path) -> bool:
    """Whether a process may be running the job of `folder`: claimed, or without a lock and written recently."""
    if (folder / NAME).exists() and settings.get("CIM_DG_LOCKS"):
        return is_claimed(folder)
    return is_fresh(folder)


def is_fresh(folder: Path) -> bool:
    """Whether a file of `folder` was written in the last quarter of an hour."""
    with contextlib.suppress(FileNotFoundError):  # the folder has been removed meanwhile
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
                if time.time() - path.stat().st_mtime < FRESH:
                    return True
    return False


def _lock(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """A file handle that holds the lock of `path`; None if another process has it."""
    while True:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == os.stat(path).st_ino:
                    return handle
            os.close(handle)  # its holder removed the file meanwhile, as clearing a folder does
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            if error.errno not in _UNSUPPORTED:
                raise
            raise NoLocks(
                f"the file system of {path.parent} has no locks ({error.strerror}), which keep two processes from "
                "running one job; mount it with flock, or set CIM_DG_LOCKS=0 and start every job once only"
            ) from None
