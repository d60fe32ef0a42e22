"""Records: the results in any harness' folders, as one tidy frame and a list of runs."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cim_dg.errors import UserError
from cim_dg.results.primary import Declared
from cim_dg.results.protocols import STOPPED, Protocol
from cim_dg.runtime.files import write_atomically

VARIANTS = "variants.json"
"""A file of a sweep's folder: the labels of the methods of the runs below each of its folders (folder to label)."""


@dataclass(frozen=True)
class Run:
    """One training run: its harness, its data and its settings.

    `algorithm` is the harness' name of the method, or the variant's label; `args` has the name.
    """

    folder: Path
    harness: str
    dataset: str
    algorithm: str
    trial: int
    hparams_seed: int = 0
    test_envs: tuple[int, ...] = ()
    finished: bool = True
    hparams: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    protocol: Protocol | None = None
    stopped: bool = False
    """whether a search by halving has stopped it early"""

    @property
    def protocol_label(self) -> str:
        """The label of its protocol; empty if none is recorded."""
        return self.protocol.label if self.protocol else ""

    @property
    def bf16(self) -> bool:
        """Whether it computed in bfloat16: an hparam, and in WILDS an option, which run_expt.py logs as text."""
        return str(self.args.get("bf16", self.hparams.get("bf16"))) == "True"


@dataclass(frozen=True)
class Records:
    """All evaluations (`frame`), their runs (`runs`), and unusable lines and folders (`skipped`).

    `variants` are the labels of variants, in the order of their sweeps; `primaries` are what sweeps have declared.

    The frame has a row per evaluation, in the order in which the harness would read them: run (position in `runs`),
    harness, dataset, algorithm, hparams_seed, trial, test_envs ("0" or "0,2"), checkpoint (counts all checkpoints),
    step, split, metric, value. `skipped` counts, by reason, lines and folders that hold no usable result.
    """

    frame: pd.DataFrame
    runs: list[Run]
    skipped: dict[str, list[str]]
    variants: Sequence[str] = ()
    primaries: Sequence[Declared] = ()

    def report(self) -> list[str]:
        """A sentence for each kind of skipped or incomplete result; empty if there are none."""
        sentences = [
            f"{reason}: {len(places)} (first: {places[0]})."
            for reason, places in sorted(self.skipped.items())
            if places
        ]
        used = set(self.frame["run"].unique())
        empty = [run for number, run in enumerate(self.runs) if number not in used]
        if empty:
            names = [_named(run) for run in empty[:_NAMED]]
            more = f", and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
            sentences.append(f"Left out, since not one of their checkpoints can be used: {', '.join(names)}{more}.")
        if stopped := sum(run.stopped for run in self.runs):
            sentences.append(f"Stopped early by halving, and counted as tried: {stopped} of {len(self.runs)} runs.")
        unfinished = [run for run in self.runs if not (run.finished or run.stopped)]
        if unfinished:
            sentences.append(
                f"Not finished: {len(unfinished)} of {len(self.runs)} runs (first: {unfinished[0].folder}); their "
                "checkpoints so far are counted."
            )
        sentences += _doubles(self.runs)
        return sentences

    def save(self, path: Path) -> None:
        """Write the frame as CSV or Parquet, depending on the file name's ending.

        Raises:
            UserError: the ending is another, or pyarrow is not installed.
        """
        if path.suffix == ".csv":
            write_atomically(path, self.frame.to_csv(index=False))
        elif path.suffix == ".parquet":
            try:
                data = self.frame.to_parquet(None, index=False)
            except ImportError as error:
                raise UserError(
                    f"{path} cannot be written: Parquet needs pyarrow (`pip install pyarrow`); a name ending in .csv "
                    "does not."
                ) from error
            write_atomically(path, data)
        else:
            raise UserError(f"{path} ends in {path.suffix!r}; the frame can be saved as .csv or .parquet.")


_NAMED = 5  # runs, before the rest is only counted
Names = tuple[tuple[str, str], ...]


class Collector:
    """Collects runs, checkpoints and skipped lines from the readers, and builds the frame."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.skipped: dict[str, list[str]] = {}
        self.variants: dict[str, str] = {}  # folder -> label
        self.protocols: dict[str, Protocol] = {}  # folder -> that of the runs below
        self.primaries: list[Declared] = []
        self._layouts: dict[Names, int] = {}
        self._checkpoints: list[int] = []  # (run, step, layout) of each, flat
        self._values: list[float] = []

    def skip(self, reason: str, where: str | Path) -> None:
        """Count a line or folder that cannot be used."""
        self.skipped.setdefault(reason, []).append(str(where))

    def begin(self, run: Run) -> int:
        """Add a run; its number is what `add` takes."""
        if self.variants or self.protocols:
            parent = os.path.dirname(os.path.abspath(run.folder))
            # A variant's runs are one folder deeper.
            protocol = self.protocols.get(parent) or self.protocols.get(os.path.dirname(parent))
            stopped = protocol is not None and protocol.halving is not None and Path(run.folder, STOPPED).exists()
            algorithm = self.variants.get(parent, run.algorithm)
            run = replace(run, algorithm=algorithm, protocol=protocol, stopped=stopped)
        self.runs.append(run)
        return len(self.runs) - 1

    def layout(self, names: Names) -> int:
        """The number of a list of (split, metric) pairs, which `add` takes."""
        return self._layouts.setdefault(names, len(self._layouts))

    def add(self, run: int, steps: Sequence[int], layout: int, values: Sequence[float]) -> None:
        """Add checkpoints of a run: for each step a value for each pair of the layout."""
        for step in steps:
            self._checkpoints.extend((run, step, layout))
        self._values.extend(values)

    def records(self) -> Records:
        """The collected records."""
        run, step, kind = np.array(self._checkpoints, dtype=np.int64).reshape(-1, 3).T
        columns = list(self._layouts)
        sizes = np.array([len(names) for names in columns], dtype=np.int64)[kind]
        order = np.repeat(run, sizes)
        of_run = {
            name: pd.Categorical([str(getattr(run, name)) for run in self.runs]).take(order)
            for name in ("harness", "dataset", "algorithm")
        }
        of_run["test_envs"] = pd.Categorical([",".join(map(str, run.test_envs)) for run in self.runs]).take(order)
        numbers = {
            name: np.array([getattr(run, name) for run in self.runs], dtype=np.int64)[order]
            for name in ("hparams_seed", "trial")
        }
        frame = pd.DataFrame(
            {
                "run": order,
                "harness": of_run["harness"],
                "dataset": of_run["dataset"],
                "algorithm": of_run["algorithm"],
                **numbers,
                "test_envs": of_run["test_envs"],
                "checkpoint": np.repeat(np.arange(len(run)), sizes),
                "step": np.repeat(step, sizes),
                **{
                    name: _spread([[pair[index] for pair in names] for names in columns], kind)
                    for index, name in enumerate(("split", "metric"))
                },
                "value": np.array(self._values, dtype=np.float64),
            }
        )
        return Records(frame, self.runs, self.skipped, list(dict.fromkeys(self.variants.values())), self.primaries)


def _spread(texts: list[list[str]], kind: np.ndarray) -> pd.Categorical:
    """The texts of each checkpoint's layout, concatenated, as codes: there may be a million of them."""
    categories = sorted({text for row in texts for text in row})
    code = {text: number for number, text in enumerate(categories)}
    codes = np.full((len(texts), max(map(len, texts), default=0)), -1, dtype=np.int32)
    for row, of_layout in zip(codes, texts, strict=True):
        row[: len(of_layout)] = [code[text] for text in of_layout]
    padded = codes[kind]
    return pd.Categorical.from_codes(padded[padded >= 0], categories=categories)


def command_of(module: str, args: Mapping[str, Any]) -> str:
    """The command, to be pasted into a shell, of a harness that records its arguments alone."""
    words = ["python", "-m", module]
    for name, value in sorted(args.items()):
        if value is not None and value is not False:
            words.append(f"--{name}")
            if value is not True:
                words += map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def _named(run: Run) -> str:
    """Which trial a run is, for a sentence."""
    envs = f", test environments {list(run.test_envs)}" if run.test_envs else ""
    return f"{run.algorithm} on {run.dataset}, trial {run.trial}{envs} ({run.folder})"


def settings_tried(runs: Sequence[Run]) -> int:
    """The number of settings that a method was tried with, in the trial and environments where it had most."""
    tried: dict[tuple[str, tuple[int, ...], int], set[str]] = {}
    for run in runs:
        values = "" if run.test_envs else str(sorted(run.hparams.items()))
        tried.setdefault((run.harness, run.test_envs, run.trial), set()).add(f"{run.hparams_seed} {values}")
    return max(map(len, tried.values()))


def _doubles(runs: list[Run]) -> list[str]:
    """A sentence if a cell has a job more than once. DomainBed pools them, and so does this module."""
    cells: Counter[tuple[Any, ...]] = Counter()
    for run in runs:
        cell = run.harness, run.dataset, run.algorithm, run.trial, run.hparams_seed, run.test_envs, run.protocol_label
        # Runs of WILDS with other settings are no doubles, though their hparams seeds are the same.
        cells[(*cell, "" if run.test_envs else repr(sorted(run.hparams.items())))] += 1
    double = [cell for cell, count in cells.items() if count > 1]
    if not double:
        return []
    harness, dataset, algorithm, trial, seed, envs, *_ = double[0]
    return [
        f"The same job is there more than once: {len(double)} (first: {harness}, {dataset}, {algorithm}, trial "
        f"{trial}, hparams seed {seed}, test environments {list(envs)}); the one with the best validation "
        "accuracy counts."
    ]
