"""The primary comparison of a sweep, which is tested alone: declared in YAML, recorded before the jobs run."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically
from cim_dg.runtime.schema import load_json

FILE = "primary.json"
"""The file of a sweep's folder."""


@dataclass(frozen=True)
class Primary:
    """The one comparison that a sweep is about. All others are corrected by Holm."""

    method: str
    """the method"""
    baseline: str
    """the method that it is compared with"""
    column: str
    """the column of the table, such as Average"""
    dataset: str = ""
    """the dataset; the sweep's, if it has one alone"""


@dataclass(frozen=True)
class Declared(Primary):
    """A primary comparison as the sweep's folder has it."""

    selection: str = ""
    """the selection rule of the sweep"""
    finished_before: int = 0
    """how many jobs of the sweep were done when it was declared"""

    def is_in(self, datasets: Iterable[str], selection: str, baseline: str) -> bool:
        """Whether it is of a table of these datasets under this rule with this baseline.

        A dataset's name may say more than the sweep's: options, or that only the format is the same.
        """
        name = re.compile(rf"{re.escape(self.dataset)}(?!\w)", re.IGNORECASE)
        same = not self.dataset or any(map(name.match, datasets))
        return same and (selection, baseline) == (self.selection, self.baseline)


def read(folder: Path) -> Declared:
    """The primary comparison of this folder.

    Raises:
        UserError: the file cannot be read, or has something else in it.
    """
    return load_json(folder / FILE, Declared, "the primary comparison of a sweep")


def declare(folder: Path, primary: Primary, selection: str, finished: int) -> None:
    """Record the primary comparison in the sweep's folder; a recorded one stays as it is, its selection rule too.

    Raises:
        UserError: the folder has another.
    """
    declared = Declared(**asdict(primary), selection=selection, finished_before=finished)
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(declared), indent=1) + "\n")
        return
    before = read(folder)
    same = {"selection": selection, "finished_before": finished, "dataset": before.dataset or primary.dataset}
    if asdict(before) | same != asdict(declared):
        raise UserError(
            f"{path} declares {before.method} against {before.baseline} in {before.column} [{before.selection}] as the "
            "primary comparison, and this sweep another; accepted is the same one, or a new --output_dir"
        )


def find(declared: Iterable[Declared], datasets: Collection[str], selection: str, baseline: str) -> Declared | None:
    """The primary comparison of a table, the first that was read; None without one."""
    return next((primary for primary in declared if primary.is_in(datasets, selection, baseline)), None)
