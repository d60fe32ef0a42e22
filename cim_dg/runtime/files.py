"""Files that are complete or absent."""

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
    """Write `data` to `path` so that neither a reader nor a crash sees a partial file. Text is UTF-8.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full; an old file is then untouched.
    """
    with open_atomically(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write. Its content appears at `path` when the block ends without an error, else nowhere.

    The bytes go to a temporary file next to the target, are flushed to the disk, and replace it in one step. A device
    or a pipe (/dev/stdout, say) is written to, and not replaced.

    Raises:
        OSError: as of `write_atomically`.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as file:
            yield file
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files; a result must be as readable as any other file of the user.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of killed writers in `folder`. No other process may be writing there."""
    for path in Path(folder).iterdir():
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def last_line(path: str | os.PathLike[str]) -> str | None:
    """The last non-blank line of a text file; None if there is none. Only the end of the file is read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
