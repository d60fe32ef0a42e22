"""Small pictures of the images that a table of disagreements names, where their dataset can be opened."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cim_dg.results.apart import run_apart
from cim_dg.results.disagreement import Named
from cim_dg.results.records import Records, Run
from cim_dg.results.run_facts import domains

MOST = 40
"""Pictures of a table."""

_SECONDS = 120
_SCRIPT = "from cim_dg.commands.thumbnails import main; main()"


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG of a few kilobytes."""

    image: Named
    jpeg: bytes


def thumbnails(tables: Sequence[Sequence[Named]], records: Records) -> list[list[Thumbnail]]:
    """For each table, the pictures of the first `MOST` images that it names; those that cannot be opened are left out.

    Args:
        tables: the images that each table names, the most important first.
        records: all runs.
    """
    tables = [named[:MOST] for named in tables]
    with tempfile.TemporaryDirectory() as folder:
        requests: list[dict[str, Any]] = []
        folders: dict[tuple[str, str], Path] = {}
        for place in dict.fromkeys((named.source, named.domain) for named in _flat(tables)):
            run = next((run for run in records.runs if run.harness == place[0] and place[1] in _labels(run)), None)
            if run is not None:
                folders[place] = Path(folder, str(len(requests)))
                folders[place].mkdir()
                of_place = {
                    named.number: named.label for named in _flat(tables) if place == (named.source, named.domain)
                }
                request = {"folder": str(folders[place]), "images": list(of_place.items())}
                requests.append(request | _dataset(run, place[1]))
        if requests:
            run_apart(_SCRIPT, requests, _SECONDS, CIM_DG_CACHE="0")  # a few images need no cache of all

        def jpeg(named: Named) -> Path:
            return folders.get((named.source, named.domain), Path(folder)) / f"{named.number}.jpg"

        return [
            [Thumbnail(named, jpeg(named).read_bytes()) for named in of_table if jpeg(named).is_file()]
            for of_table in tables
        ]


def _flat(tables: Iterable[Iterable[Named]]) -> Iterable[Named]:
    return (named for of_table in tables for named in of_table)


def _labels(run: Run) -> list[str]:
    """The names that a table of disagreements may give to a run's test domains."""
    names = domains(run) if run.test_envs else ["test"]
    return [label for name in names for label in (f"{run.dataset} {name}", name)]


def _dataset(run: Run, label: str) -> dict[str, Any]:
    """What opens the dataset of a run: of DomainBed with the environment of a label."""
    if not run.test_envs:
        return {name: run.args.get(name) for name in ("dataset", "version")} | {"root": run.args.get("root_dir")}
    env = run.test_envs[_labels(run).index(label) // 2]
    dataset = run.args.get("dataset", run.dataset)
    return {"dataset": dataset, "root": run.args.get("data_dir"), "env": env, "hparams": run.hparams}
