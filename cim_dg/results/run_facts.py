"""The facts about each run for the page, from its folder; 'unknown' if missing."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cim_dg.results.best import hparams_text
from cim_dg.results.data_copies import described
from cim_dg.results.domains import domain_names
from cim_dg.results.records import Run, command_of

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Group:
    """The runs of one method on one data set: their common facts, and a row for each with the others."""

    title: str
    shared: Sequence[tuple[str, str]]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def groups(runs: Sequence[Run]) -> list[Group]:
    """All runs, in groups by harness, data set and method."""
    by_method: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        by_method.setdefault((run.dataset, run.harness, run.algorithm), []).append(run)
    return [_group(*key, of_method) for key, of_method in sorted(by_method.items())]


def facts(run: Run) -> dict[str, str]:
    """The facts about a run, name -> text."""
    provenance = run.provenance
    return {
        "Test domain": ", ".join(domains(run)) or "—",
        "Trial": str(run.trial),
        "Hparams seed": str(run.hparams_seed),
        "Protocol": f"{run.protocol.label}, stage {run.protocol.stage}" if run.protocol else "—",
        "Seed": _text(_first_set(_mapping(provenance.get("seeds")).get("seed"), run.args.get("seed"))),
        "Finished": "stopped early" if run.stopped else "yes" if run.finished else "no",
        "Harness": run.harness,
        "Versions": _versions(run),
        "Commit": _text(_first_set(provenance.get("git_commit"), provenance.get("commit"))),
        "Device": _text(provenance.get("device")),
        "Data": described(run),
        "Weights at the start": _text(provenance.get("weights")),
        "Started": _text(provenance.get("started")),
        "Hparams": hparams_text(run) or UNKNOWN,
        "Command": _command(run),
        "Folder": str(run.folder),
    }


def _group(dataset: str, harness: str, algorithm: str, runs: Sequence[Run]) -> Group:
    all_facts = [facts(run) for run in sorted(runs, key=lambda run: (run.trial, run.test_envs, run.hparams_seed))]
    names = list(all_facts[0])
    shared = [name for name in names if len({run_facts[name] for run_facts in all_facts}) == 1 and len(runs) > 1]
    own = [name for name in names if name not in shared]
    count = f"{len(runs)} run" + ("s" if len(runs) > 1 else "")
    return Group(
        title=f"{dataset}: {algorithm} ({harness}), {count}",
        shared=[(name, all_facts[0][name]) for name in shared],
        header=own,
        rows=[[run_facts[name] for name in own] for run_facts in all_facts],
    )


def domains(run: Run) -> list[str]:
    """The names of a run's test environments."""
    names = domain_names(run.dataset)
    return [names[env] if env < len(names) else f"env{env}" for env in run.test_envs]


def _versions(run: Run) -> str:
    versions = _mapping(run.provenance.get("versions"))
    if versions:
        return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return ", ".join(printed_versions(run)) or UNKNOWN


def printed_versions(run: Run) -> list[str]:
    """The versions that DomainBed prints at the start of a job's out.txt, and its SWAD forks of log.txt."""
    for name in ("out.txt", "log.txt"):
        try:
            with (run.folder / name).open(encoding="utf-8", errors="replace") as file:
                head = [file.readline() for _ in range(11)]
        except OSError:
            continue
        if any(line.startswith("Environment") for line in head[:2]):
            own = itertools.takewhile(lambda line: not line.startswith("Args"), head)
            return [line.strip().replace(": ", " ") for line in own if line.startswith("\t") and ": " in line]
    return []


def _command(run: Run) -> str:
    """The run's command. DomainBed records only the arguments, from which it is derived."""
    command = run.provenance.get("command")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    if command:
        return str(command)
    if not run.args:
        return UNKNOWN
    return command_of("domainbed.scripts.train", run.args)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first_set(first: object, second: object) -> object:
    return second if first is None else first


def _text(value: object) -> str:
    return UNKNOWN if value is None else str(value)
