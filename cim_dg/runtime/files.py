"""Files that are either wholly there or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}")  # as mkstemp names them


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, never sees a part of it. Text is UTF-8.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full; an old file is then untouched.
    """
    with open_atomically(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write whose content appears at `path` when the block ends well, and nowhere when it does not.

    The bytes go to a file beside the target, are flushed to the disk, and replace it in one step.

    Raises:
        OSError: as of `write_atomically`.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is to be as readable as any other file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left of files in `folder`, in which nobody else may be writing."""
    for path in Path(folder).iterdir():
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def last_line(path: str | os.PathLike[str]) -> str | None:
    """The last line of a text file that is not blank, or None if there is none. Reads no more than the end of it."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
