"""Search, then seeds: a sweep whose second stage is planned by what the first one selected."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from cim_dg.errors import UserError
from cim_dg.results import protocols
from cim_dg.results.protocols import SEARCH, SEARCH_THEN_SEEDS, SEEDS, STOPPED, Protocol
from cim_dg.runtime.halving import marker
from cim_dg.sweeps import halving
from cim_dg.sweeps.halving import Place
from cim_dg.sweeps.jobs import DONE, Command, Job
from cim_dg.sweeps.spec import Spec

_SHARED = ("harness", "first_trial", "steps", "hparams", "variants", "options")
"""The entries of a sweep that all its runs share. The folder of a search serves no other values of them."""


@dataclass(frozen=True)
class Stages:
    """The jobs that are known and go on, the commands of the current stage, its record, and how many the next one has.

    With halving also the place of the search.
    """

    jobs: list[Job]
    commands: list[Command]
    files: Mapping[Path, str]
    later: int
    place: Place | None = None


def make(spec: Spec, data_dir: str | None, output_dir: Path, harness: ModuleType) -> Stages:
    """Plan the first stage, or the second if the first is done.

    Raises:
        UserError: the folder's stages are of another selection rule, number of settings, halving, or of other settings
            of all runs, the search has no run to select for a cell, or its records have changed since the seeds were
            planned or settings stopped; or jobs cannot pause.
    """
    search_dir, seeds_dir = output_dir / SEARCH, output_dir / SEEDS
    spans = harness.spans(spec) if spec.halving else {}
    rungs = halving.rungs(spec, spans)
    protocol = Protocol(SEARCH_THEN_SEEDS, "search", spec.selection, spec.n_hparams, _shared(spec))
    if spec.halving:
        protocol = replace(protocol, halving=spec.halving, rungs=rungs)
    for folder in (search_dir, seeds_dir):
        _refuse_other(folder, protocol)
    one_trial = replace(spec, n_trials=1, protocol="random-search", halving=None)
    every = searched = harness.jobs(one_trial, data_dir, search_dir)
    ranked = functools.cache(lambda: harness.ranked(spec, search_dir))  # read once, when the first rung is done
    for number, rung in enumerate(rungs):
        if number:
            best = halving.best(ranked(), rung.settings)
            searched = [job for job in searched if halving.goes_on(job, best)]
        going_on = {job.folder for job in searched}
        stopped = [job for job in every if job.folder not in going_on]
        place = Place(rungs, number, stopped) if spec.halving else None
        here = [replace(job, state=DONE) if _has_reached(job, rung.divisor) else job for job in searched]
        if any(job.state != DONE for job in here):
            _refuse_revived(here)
            seeds = len(harness.jobs(replace(one_trial, n_hparams=1), data_dir, seeds_dir)) * (spec.n_trials - 1)
            commands = harness.commands(one_trial, data_dir, search_dir, here, chosen=spec.halving is not None)
            return Stages(here, commands, {search_dir / protocols.FILE: protocol.text()}, seeds, place)
    chosen = [choices[0] for choices in ranked().values()]
    before = protocols.read(seeds_dir)
    recorded = {(c.dataset, c.algorithm, c.test_env): c for c in before.chosen} if before else {}
    for choice in chosen:
        cell = choice.dataset, choice.algorithm, choice.test_env
        if (earlier := recorded.setdefault(cell, choice)).hparams != choice.hparams:
            raise UserError(
                f"the search in {search_dir} selects hparams seed {choice.hparams_seed} for {choice.algorithm} on "
                f"{choice.dataset}, and the seeds in {seeds_dir} were planned by {earlier.hparams_seed}; move one away"
            )
    protocol = replace(protocol, stage="seeds", chosen=list(recorded.values()))
    jobs = harness.jobs(spec, data_dir, seeds_dir, chosen)
    commands = harness.commands(spec, data_dir, seeds_dir, jobs, chosen=True)
    return Stages([*searched, *jobs], commands, {seeds_dir / protocols.FILE: protocol.text()}, 0, place)


def refuse_plain(output_dir: Path) -> None:
    """Refuse to run another protocol in a folder of search, then seeds.

    Raises:
        UserError: the folder is one.
    """
    if protocols.read(output_dir / SEARCH) is not None:
        raise UserError(
            f"{output_dir} holds a sweep of search, then seeds; give --protocol {SEARCH_THEN_SEEDS}, or another "
            "--output_dir"
        )


def _has_reached(job: Job, divisor: int) -> bool:
    return job.state == DONE or (job.folder / marker(divisor)).exists()


def _refuse_revived(jobs: Sequence[Job]) -> None:
    """Refuse to go on with a setting that was stopped."""
    for job in jobs:
        if job.state != DONE and (job.folder / STOPPED).exists():
            raise UserError(
                f"{job.folder} was stopped early, and is among the best of the search now: records have changed since, "
                "so give another --output_dir"
            )


def _refuse_other(folder: Path, protocol: Protocol) -> None:
    before = protocols.read(folder)
    if before is None:
        return
    old = {"first_trial": 0, "selection": before.selection, "n_hparams": before.n_hparams, **before.shared}
    new = {"selection": protocol.selection, "n_hparams": protocol.n_hparams, **protocol.shared}
    for values, of in ((old, before), (new, protocol)):
        rungs = [f"{rung.settings} settings to 1/{rung.divisor}" for rung in of.rungs]
        values |= {"halving": of.halving, "rungs": rungs}
    for name in new:
        if old.get(name) != new[name]:
            raise UserError(
                f"{folder} was run with {name} {old.get(name)!r}, not {new[name]!r}; stages of unlike sweeps are not "
                "mixed, so give another --output_dir"
            )


def _shared(spec: Spec) -> dict[str, Any]:
    values = {name: getattr(spec, name) for name in _SHARED}
    if spec.variants:
        values["variants"] = {name: [v.algorithm, v.hparams] for name, v in spec.variants.items()}
    shared: dict[str, Any] = json.loads(json.dumps(values))
    return shared
