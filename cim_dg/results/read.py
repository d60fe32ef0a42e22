"""Reads the run folders of any harness into one frame of records."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.results import primary, protocols, read_domainbed, read_subpopbench, read_wilds
from cim_dg.results.records import VARIANTS, Collector, Records

DATASET = "metadata.csv"
"""A file of WILDS' datasets, which may lie next to the runs."""


def read(folders: Sequence[str | os.PathLike[str]]) -> Records:
    """Read every run of any harness in or below `folders`, each file once.

    Raises:
        UserError: a folder does not exist, or there is no run with a result.
    """
    collector = Collector()
    _walk(folders, collector)
    if not collector.runs:
        left = "; ".join(f"{reason.lower()}: {len(places)}" for reason, places in collector.skipped.items())
        raise UserError(
            f"{', '.join(map(str, folders))}: no results there"
            + (f" ({left})" if left else "")
            + "; a DomainBed job has a results.jsonl, a SubpopBench job a results.json, a WILDS log folder files such "
            "as val_eval.csv."
        )
    return collector.records()


def _walk(folders: Sequence[str | os.PathLike[str]], collector: Collector) -> None:
    seen: set[str] = set()
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder} is not a folder; give folders of DomainBed sweeps, SWAD or SubpopBench runs, or WILDS logs."
            )
        # os.walk lists as os.listdir does, so the order, which breaks exact ties, is DomainBed's.
        for path, below, files in os.walk(folder):
            absolute = os.path.abspath(path)
            if absolute in seen:
                below.clear()
                continue
            seen.add(absolute)
            names = set(files)
            below[:] = [name for name in below if not name.startswith(".")]  # launchers' notes
            if VARIANTS in names:
                collector.variants |= _variants(absolute)
            if protocols.FILE in names and (protocol := protocols.read(absolute)):
                collector.protocols[absolute] = protocol
            if primary.FILE in names:
                collector.primaries.append(primary.read(Path(path)))
            for reader in (read_subpopbench, read_domainbed, read_wilds):
                if reader.is_run(names):
                    try:
                        reader.read(Path(path), names, collector)
                    except OSError as error:
                        collector.skip("Files that cannot be read", str(error.filename))
                    below.clear()
                    break
            else:
                if DATASET in names:
                    below.clear()
                elif not below and path != os.fspath(folder):
                    collector.skip(
                        "Folders without anything in them (not started?)" if not files else "Folders that are no runs",
                        path,
                    )


def _variants(folder: str) -> dict[str, str]:
    """Label by absolute folder, as a sweep wrote them."""
    path = os.path.join(folder, VARIANTS)
    try:
        labels = json.loads(Path(path).read_text(encoding="utf-8"))
        return {os.path.join(folder, name): str(label) for name, label in labels.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{path} is not what a sweep of variants writes, folders with labels; move it away.") from None
