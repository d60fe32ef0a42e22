"""A section of the report: a table whose rows are measured in a process of their own.

A process of its own starts with no memory taken, can be stopped at its time limit whatever it waits for, and leaves
the other sections alone when it fails, even if it has lost the GPU.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 400  # characters: no cell is folded
NEEDS_CUDA = "needs CUDA"
SMALL_LIMIT = 10
"""Times the limit of a section, which is for a GPU."""


@dataclass(frozen=True)
class Setup:
    """What is measured with.

    Attributes:
        device: "cuda" or "cpu".
        small: a tiny network and few, small images, for the tests.
        algorithms: the methods, ERM among them or not.
        repeats: how often each time is measured, of which the median counts.
        folder: for files, empty at first.
    """

    device: torch.device
    small: bool
    algorithms: tuple[str, ...]
    repeats: int
    folder: Path

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def batch(self) -> tuple[int, int]:
        """How many images a training step has, and their side in pixels."""
        return (12, 20) if self.small else (96, 224)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: its texts; the rest of a short row is empty.
        right: False if what it shows is wrong, for which the report's exit code is 1.
    """

    cells: tuple[str, ...]
    right: bool = True


@dataclass(frozen=True)
class Section:
    """A table of the report.

    Attributes:
        name: on the command line.
        title: what is measured.
        headings: of the columns.
        limit: seconds after which it is stopped; a small one may take longer.
        rows: measures.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    limit: float
    rows: Callable[[Setup], Iterator[Row]]


def measure(section: Section, setup: Setup) -> tuple[str, bool]:
    """The section in Markdown, and whether it is right: it did not fail, and no row says that something is wrong.

    A failure, or the end of its time, is its last row. The process and all that it started are ended.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)
    sys.stdout.flush()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_work, args=(section, setup, receiving, sending))
    process.start()
    sending.close()
    try:
        rows = list(_received(receiving, process, section.limit * (SMALL_LIMIT if setup.small else 1)))
    finally:
        _end_group(process)
    return f"### {section.title}\n\n{markdown(section.headings, rows)}", all(row.right for row in rows)


def each(names: Iterable[str], measure: Callable[[str], Row]) -> Iterator[Row]:
    """The row of each name; the failure of one does not stop the others."""
    for name in names:
        try:
            row = measure(name)
        except Exception as error:
            row = _failure(error, name)
        yield row


def markdown(headings: tuple[str, ...], rows: list[Row]) -> str:
    """A table in Markdown."""
    table = Table(*headings, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*(cell.replace("|", "/") for cell in row.cells))
    text = io.StringIO()
    Console(file=text, width=WIDTH, markup=False).print(table, markup=False)
    return "".join(f"{line.strip()}\n" for line in text.getvalue().splitlines() if line.strip())


def _failure(error: Exception, *cells: str) -> Row:
    """The row of what an exception ended; its traceback goes to stderr."""
    traceback.print_exception(error)
    return Row((*cells, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"), right=False)


def _received(receiving: Connection, process: multiprocessing.process.BaseProcess, limit: float) -> Iterator[Row]:
    end = time.monotonic() + limit
    while receiving.poll(max(0.0, end - time.monotonic())):
        try:
            row = receiving.recv()
        except EOFError:
            process.join()
            yield Row((f"failed: its process died, exit code {process.exitcode}",), right=False)
            return
        if row is None:
            return
        yield row
    yield Row((f"stopped after {limit:g} s, its time limit",))


def _work(section: Section, setup: Setup, receiving: Connection, sending: Connection) -> None:
    """The process of a section: sends its rows, and None at the end."""
    receiving.close()
    os.setsid()
    os.dup2(sys.stderr.fileno(), 1)  # what libraries print is no part of the report
    try:
        for row in section.rows(setup):
            sending.send(row)
    except Exception as error:
        sending.send(_failure(error))
    sending.send(None)


def _end_group(process: multiprocessing.process.BaseProcess) -> None:
    """End a section's process and those that it started."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
