"""The folder of a run: run_expt.py's files, and run.json, which describes the run."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cim_dg.data import fingerprint
from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically
from cim_dg.runtime.provenance import commit, versions

RECORD = "run.json"


class RunFolder:
    """Names and writes the files of one run. All but the log are replaced atomically.

    Args:
        path: the run's folder.
        dataset: name of the dataset, for the file names.
        seed: the run's seed, for the file names.
    """

    def __init__(self, path: str | Path, dataset: str, seed: int) -> None:
        self.path, self.dataset, self.seed = Path(path), dataset, seed

    def create(self) -> None:
        """Create the folder if it does not exist.

        Raises:
            UserError: it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"log_dir {self.path} cannot be made: {error.strerror}") from None

    @contextlib.contextmanager
    def removed_if_refused(self) -> Iterator[None]:
        """If the input turns out to be wrong before there is a checkpoint, what was written is removed.

        The corrected command then finds the folder as the refused one did.
        """
        before = set(self.path.iterdir()) if self.path.is_dir() else None
        try:
            yield
        except UserError:
            if self.path.is_dir() and not self.model("last").exists() and not self.partial.exists():
                for path in set(self.path.iterdir()) - (before or set()):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if before is None:
                    self.path.rmdir()
            raise

    @property
    def record(self) -> Path:
        """The path of run.json."""
        return self.path / RECORD

    def model(self, which: str) -> Path:
        """The checkpoint of epoch `which`: best or last."""
        return self.path / f"{self.dataset}_seed:{self.seed}_epoch:{which}_model.pth"

    @property
    def partial(self) -> Path:
        """The checkpoint within an epoch, which is removed at the epoch's end."""
        return self.path / f"{self.dataset}_seed:{self.seed}_checkpoint.pt"

    def logits(self, split: str) -> Path:
        """The logits on `split` of the best epoch."""
        return self.path / f"{self.dataset}_split:{split}_seed:{self.seed}_epoch:best_logits.npz"

    def remove_models(self) -> None:
        """Remove the checkpoints of the epochs `best` and `last`."""
        for which in ("best", "last"):
            self.model(which).unlink(missing_ok=True)

    def prediction(self, split: str, which: str) -> Path:
        """The predictions on `split` of epoch `which`: best or last."""
        return self.path / f"{self.dataset}_split:{split}_seed:{self.seed}_epoch:{which}_pred.csv"

    def log(self, text: str) -> None:
        """Print a line, and append it to log.txt."""
        print(text, flush=True)
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write NAME.csv with the columns of the first row."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / f"{name}.csv", text.getvalue())

    def write_predictions(self, split: str, which: str, y_pred: Tensor) -> None:
        """Write one predicted class per line, (N,) in the order of the split."""
        write_atomically(self.prediction(split, which), "".join(f"{y}\n" for y in y_pred.tolist()))

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json."""
        write_atomically(self.record, json.dumps(record, indent=2, sort_keys=True) + "\n")


def provenance(dataset: str, root_dir: str | Path) -> dict[str, Any]:
    """The command, versions, the checkout's commit (None for an installed package), and the copy of the data."""
    packages = ("wilds", "torch", "torchvision", "numpy", "pandas")
    return {
        "command": shlex.join(sys.argv),
        "versions": versions(packages),
        "commit": commit(),
        "data": fingerprint.record("wilds", dataset, root_dir),
    }
