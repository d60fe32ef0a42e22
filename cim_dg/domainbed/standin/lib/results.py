"""A job's results.jsonl, in which every line is complete and every checkpoint appears once."""

from __future__ import annotations

import contextlib
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from cim_dg.runtime.files import write_atomically


def identity(args: Namespace) -> dict[str, Any]:
    """The arguments that identify a job: all but its folder's path and what is saved there."""
    return {name: value for name, value in vars(args).items() if name not in ("output_dir", "skip_model_save")}


class Results:
    """The records of the job with these arguments in the file `path`, which may also hold other jobs' records."""

    def __init__(self, path: str | os.PathLike[str], args: Namespace) -> None:
        self.path = Path(path)
        self._job = identity(args)

    def append(self, record: dict[str, Any]) -> None:
        """Append a line and flush it to the disk.

        Raises:
            OSError: it cannot be written. The file is then unchanged.
        """
        line = (json.dumps(record, sort_keys=True) + "\n").encode("utf-8")
        with open(self.path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                written = 0
                while written < len(line):  # a full disk may have taken part of the line
                    written += file.write(line[written:])
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
                raise

    def size(self) -> int:
        """The size of the file in bytes; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def cut(self, size: int) -> None:
        """Truncate the file to `size` bytes."""
        if self.size() > size:
            os.truncate(self.path, size)

    def start_over(self) -> None:
        """Remove truncated lines and the records of an earlier attempt at this job. Other jobs' records stay."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            other_lines = [line for line in lines if line.endswith(b"\n") and not self._is_ours(line)]
            if other_lines != lines:
                write_atomically(self.path, b"".join(other_lines))

    def _is_ours(self, line: bytes) -> bool:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return identity(Namespace(**json.loads(line)["args"])) == self._job
        return False
