"""The records of a sweep: read from its folder, and grouped for model selection."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cim_dg.errors import UserError
from cim_dg.results.read_domainbed import parse

Record = dict[str, Any]


class Group(NamedTuple):
    """One table cell of one trial, with all its records."""

    trial_seed: int
    dataset: str
    algorithm: str
    test_env: int
    records: list[Record]


def load_records(path: str | os.PathLike[str]) -> list[Record]:
    """Every record in `PATH/*/results.jsonl`. The number of invalid lines (truncated, empty) goes to stderr.

    Raises:
        UserError: `path` is not a folder.
    """
    if not os.path.isdir(path):
        raise UserError(f"there is no folder {os.fspath(path)!r} to read results from")
    records: list[Record] = []
    warnings = []
    # In the folder's own order, as in DomainBed. It orders the rows of algorithms that are not in ALGORITHMS.
    for job in tqdm(os.listdir(path), ncols=80, leave=False):
        file = Path(path, job, "results.jsonl")
        try:
            lines = [parse(line) for line in file.read_bytes().splitlines()]
        except OSError:
            continue  # not a job's folder, or a job without results yet
        usable = [record for record in lines if "args" in record]
        records += usable
        if len(usable) < len(lines):
            count = len(lines) - len(usable)
            warnings.append(f"warning: {count} of the lines of {file} cut short or empty, left out")
    for warning in warnings:
        print(warning, file=sys.stderr)
    return records


def get_grouped_records(records: list[Record]) -> list[Group]:
    """The records of each (trial, dataset, algorithm, test environment), in order of appearance.

    A record with two test environments is in both groups.
    """
    groups: dict[tuple[int, str, str, int], Group] = {}
    for record in records:
        args = record["args"]
        for test_env in args["test_envs"]:
            key = (args["trial_seed"], args["dataset"], args["algorithm"], test_env)
            groups.setdefault(key, Group(*key, [])).records.append(record)
    return list(groups.values())
