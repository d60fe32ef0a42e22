"""A job's results.jsonl: every line whole, every checkpoint in it once."""

from __future__ import annotations

import contextlib
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from cim_dg.runtime.files import write_atomically


def identity(args: Namespace) -> dict[str, Any]:
    """What tells one job from another: its arguments, but for where its folder is seen from, and what is kept there."""
    return {name: value for name, value in vars(args).items() if name not in ("output_dir", "skip_model_save")}


class Results:
    """The records of the job with these arguments in the file `path`, which may hold those of other jobs, too."""

    def __init__(self, path: str | os.PathLike[str], args: Namespace) -> None:
        self.path = Path(path)
        self._job = identity(args)

    def append(self, record: dict[str, Any]) -> None:
        """Append a line, and see to it that it is on the disk.

        Raises:
            OSError: it cannot be written; the file is then as it was.
        """
        line = (json.dumps(record, sort_keys=True) + "\n").encode("utf-8")
        with open(self.path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                written = 0
                while written < len(line):  # a disk that fills up takes a part of it first
                    written += file.write(line[written:])
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
                raise

    def size(self) -> int:
        """Bytes in the file; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def cut(self, size: int) -> None:
        """Forget what was written after the file had `size` bytes."""
        if self.size() > size:
            os.truncate(self.path, size)

    def start_over(self) -> None:
        """Forget what an earlier attempt at this job has left, and lines cut short; the lines of other jobs stay."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith(b"\n") and not self._is_ours(line)]
            if kept != lines:
                write_atomically(self.path, b"".join(kept))

    def _is_ours(self, line: bytes) -> bool:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return identity(Namespace(**json.loads(line)["args"])) == self._job
        return False
