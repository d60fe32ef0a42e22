"""Search, then seeds: what a sweep of two stages records in its folders, so that its runs are pooled with no others.

Stage 1 searches N settings on the first trial, for each method and test environment alike; stage 2 trains the setting
that the sweep's selection rule chose on the other trials. The folder of each stage has a `protocol.json`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cim_dg.runtime.schema import load_json

if TYPE_CHECKING:
    from cim_dg.results.records import Records

FILE = "protocol.json"
SEARCH_THEN_SEEDS: Final = "search-then-seeds"
SEARCH, SEEDS = "search", "seeds"
"""The stages, and their folders."""
STOPPED = "stopped"
"""A file of a run of a search by halving whose setting was left behind. It counts as tried, and was not to finish."""


@dataclass(frozen=True)
class Choice:
    """The setting that stage 1 selected for a method on a dataset (and test environment, in DomainBed)."""

    dataset: str
    algorithm: str
    test_env: int | None
    hparams_seed: int
    hparams: dict[str, Any]
    validation: float


@dataclass(frozen=True)
class Rung:
    """A part of a search: so many settings of each cell train to 1/`divisor` of the length."""

    divisor: int
    settings: int


@dataclass(frozen=True)
class Protocol:
    """How the runs of a folder came about."""

    protocol: Literal["search-then-seeds"]
    stage: Literal["search", "seeds"]
    selection: str
    """the rule by which stage 2 was planned"""
    n_hparams: int
    """the settings that were searched, for each method and test environment"""
    shared: dict[str, Any]
    """the entries of the sweep that all runs share"""
    chosen: list[Choice] = field(default_factory=list)
    halving: int | None = None
    """of how many settings one goes on at each rung, if the search stops settings early"""
    rungs: list[Rung] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The text of a table's protocol column."""
        stopping = f", halving {self.halving}" if self.halving else ""
        return f"{self.selection}, {self.protocol} ({self.n_hparams} settings{stopping})"

    def text(self) -> str:
        """The content of `protocol.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def read(folder: str | os.PathLike[str]) -> Protocol | None:
    """The protocol that a folder records; None if it records none.

    Raises:
        UserError: the file is not one that a sweep writes.
    """
    path = Path(folder, FILE)
    return load_json(path, Protocol, "what a sweep writes") if path.exists() else None


def parts(records: Records) -> list[tuple[Protocol | None, Records]]:
    """The records of each protocol, first those of none. Runs of unlike protocols are never pooled."""
    labels = sorted({run.protocol_label for run in records.runs})
    return [(part.runs[0].protocol, part) for part in (of(records, label) for label in labels)]


def of(records: Records, label: str) -> Records:
    """The records of the protocol with this label ("" for those of none)."""
    kept = [number for number, run in enumerate(records.runs) if run.protocol_label == label]
    if len(kept) == len(records.runs):
        return records
    frame = records.frame[records.frame["run"].isin(kept)]
    frame = frame.assign(run=frame["run"].map({number: place for place, number in enumerate(kept)}))
    return replace(records, frame=frame.reset_index(drop=True), runs=[records.runs[number] for number in kept])
