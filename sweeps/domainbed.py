"""A sweep's jobs in DomainBed, the same as its own `sweep`'s, and the commands that run the missing ones."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cim_dg.domainbed.launchers import is_standin
from cim_dg.domainbed.standin.hparams_registry import with_overrides
from cim_dg.errors import UserError
from cim_dg.hparams.sampling import seed_hash
from cim_dg.launchers import notes
from cim_dg.launchers.job import clear as remove_unclaimed
from cim_dg.results.domains import ENVIRONMENTS, dataset_of
from cim_dg.results.protocols import Choice
from cim_dg.results.records import VARIANTS
from cim_dg.runtime.files import last_line
from cim_dg.runtime.halving import has_paused
from cim_dg.runtime.schema import suggestion
from cim_dg.sweeps.halving import Cell, Span
from cim_dg.sweeps.jobs import DONE, NOT_STARTED, UNFINISHED, Command, Job, check_launcher
from cim_dg.sweeps.spec import Spec, Variant

HOLDOUT_FRACTION = 0.2
PLAN = "plan.json"
CHECKPOINTS = ("checkpoint.pt",)
"""What a job keeps to go on from."""
NO_DATA = "none"  # DomainBed requires --data_dir even for data sets without files, and names the jobs' folders after it


def jobs(spec: Spec, data_dir: str | None, output_dir: Path, chosen: Sequence[Choice] | None = None) -> list[Job]:
    """Every run that the selection rule needs, in DomainBed's order; only leave-one-out needs pairs.

    With the settings that a search has `chosen` on the first trial: theirs on the other trials.
    """
    return [
        _job(args, output_dir / name if spec.variants else output_dir, name)
        for name, args in _arguments(spec, data_dir or NO_DATA, chosen)
    ]


def spans(spec: Spec) -> dict[str, Span]:
    """The last step of a job on each dataset, and the steps between its checkpoints.

    Raises:
        UserError: it is the real DomainBed, whose jobs cannot pause.
    """
    if not is_standin():
        raise UserError(
            f"halving is {spec.halving}; accepted is none for DomainBed itself, whose jobs do not go on from a "
            "checkpoint: those of the stand-in and of WILDS do"
        )
    return {name: (length - 1, interval) for name, (length, interval) in lengths(spec).items()}


def lengths(spec: Spec) -> dict[str, tuple[int, int]]:
    """The steps of a job on each dataset, and those between its checkpoints."""
    known = {name: importlib.import_module("domainbed.datasets").get_dataset_class(name) for name in spec.datasets}
    return {name: (spec.steps or of.N_STEPS, of.CHECKPOINT_FREQ) for name, of in known.items()}


def ranked(spec: Spec, folder: Path) -> dict[Cell, list[Choice]]:
    """The settings of the first trial, the best by the selection rule first, by dataset, method and test environment.

    Raises:
        UserError: there is no run to choose, or the runs are of several harnesses.
    """
    from cim_dg.results.read import read
    from cim_dg.results.selection import ranking

    records = read([folder])
    ordered = ranking(records, spec.selection)
    if len(harnesses := sorted(set(ordered["harness"]))) > 1:
        raise UserError(f"{folder} has runs of {' and '.join(harnesses)}; a search is one of a single harness")
    cells: dict[Cell, list[Any]] = {}
    for row in ordered.itertuples():
        cells.setdefault((dataset_of(row.dataset), str(row.algorithm), row.test_env), []).append(row)
    choices: dict[Cell, list[Choice]] = {}
    for dataset, name in itertools.product(spec.datasets, spec.algorithms):
        for env in [envs[0] for envs in _test_envs(dataset, spec) if len(envs) == 1]:
            rows = cells.get((dataset, _variant(spec, name).label, env))
            if rows is None:
                raise UserError(
                    f"{folder} has no run of {name} on {dataset} (env {env}) that {spec.selection} can select"
                )
            choices[dataset, name, env] = [
                Choice(dataset, name, env, int(r.hparams_seed), dict(records.runs[r.run].hparams), float(r.validation))
                for r in rows
            ]
    return choices


def commands(
    spec: Spec, data_dir: str | None, output_dir: Path, planned: list[Job], chosen: bool = False
) -> list[Command]:
    """DomainBed's own command that launches the missing jobs.

    DomainBed's `sweep` supports neither variants, nor selected test environments, nor another first trial, nor jobs
    that a search has `chosen`: `cim_dg.sweeps.launch` gives such jobs to its launcher.
    """
    missing = [job for job in planned if job.state != DONE]
    if spec.variants or spec.test_envs or spec.first_trial or chosen:
        return [_launch(spec, output_dir, missing)] if missing else []
    words = [
        *("--datasets", *spec.datasets, "--algorithms", *spec.algorithms),
        *("--n_hparams", str(spec.n_hparams), "--n_trials", str(spec.n_trials)),
        *(["--single_test_envs"] if spec.selection != "leave-one-out" else []),
        *(["--steps", str(spec.steps)] if spec.steps is not None else []),
        *(["--hparams", json.dumps(spec.hparams)] if spec.hparams is not None else []),
        *("--data_dir", data_dir or NO_DATA, "--output_dir", str(output_dir)),
        *("--command_launcher", spec.command_launcher, "--skip_confirmation"),
    ]
    sweep = [sys.executable, "-m", "domainbed.scripts.sweep"]
    return [Command([*sweep, "launch", *words], missing)] if missing else []


def check_has_sweep() -> None:
    """Check that the DomainBed here, if there is one, has a sweep.

    Raises:
        UserError: it is a fork that has none.
    """
    with contextlib.suppress(ModuleNotFoundError):  # `check` reports it
        if importlib.util.find_spec("domainbed.command_launchers") is None:
            root = Path(importlib.import_module("domainbed").__path__[0]).parent
            raise UserError(
                f"{root} holds a fork of DomainBed without a sweep, as those in SWAD's form are: their train_all.py "
                "runs one job; start sweeps in a clone of DomainBed"
            )


def check(spec: Spec, commands: list[Command]) -> None:
    """Check what every job would refuse.

    Raises:
        UserError: DomainBed cannot be imported, does not know the launcher, a method or a hyper-parameter, or a value
            is out of bounds.
    """
    try:
        from cim_dg.algorithms import methods

        algorithms, command_launchers, registry = (
            importlib.import_module(f"domainbed.{name}")
            for name in ("algorithms", "command_launchers", "hparams_registry")
        )
    except ImportError as error:
        raise UserError(f"DomainBed cannot be imported: {error}") from None
    check_launcher(spec.command_launcher, command_launchers.REGISTRY)
    for name in spec.algorithms:
        variant = _variant(spec, name)
        try:
            algorithms.get_algorithm_class(variant.algorithm)
        except NotImplementedError as error:  # of the real DomainBed
            hint = suggestion(variant.algorithm, [*algorithms.ALGORITHMS, *methods()])
            raise UserError(f"there is no algorithm {variant.algorithm!r} ({error}){hint}") from None
        hparams = json.dumps({**(spec.hparams or {}), **variant.hparams})
        for dataset in spec.datasets:
            with_overrides(registry.default_hparams(variant.algorithm, dataset), hparams, variant.algorithm)


def clear(planned: list[Job]) -> list[Job]:
    """Remove the folders of a real DomainBed's unfinished jobs, which start over; returns the folders that are kept.

    Jobs that may be running, or are waiting in a launcher or in Slurm, are kept. The stand-in's jobs resume, so their
    folders are kept too.

    Raises:
        UserError: Slurm does not answer.
    """
    unfinished = [job for job in planned if job.state == UNFINISHED]
    if is_standin():
        return []
    busy = notes.busy([job.folder for job in unfinished])
    return [job for job in unfinished if job.folder in busy or not remove_unclaimed(job.folder, remove=True)]


def is_done(job: Job) -> bool:
    """Whether the job is done now."""
    return (job.folder / "done").exists()


def last_words(job: Job) -> str:
    """The last line that a failed job printed, for the error message."""
    return last_line(job.folder / "err.txt") or "it says nothing in err.txt"


def _launch(spec: Spec, output_dir: Path, missing: list[Job]) -> Command:
    files = {PLAN: json.dumps([job.args for job in missing], indent=1)}
    if spec.variants:
        files[VARIANTS] = json.dumps({name: variant.label for name, variant in spec.variants.items()}, indent=1)
    command = [sys.executable, "-m", "cim_dg.sweeps.launch", "--command_launcher", spec.command_launcher]
    return Command(
        [*command, str(output_dir / PLAN)], missing, {output_dir / name: text for name, text in files.items()}
    )


def _job(args: dict[str, Any], output_dir: Path, name: str) -> Job:
    # DomainBed's name for the folder of these arguments.
    folder = output_dir / hashlib.md5(json.dumps(args, sort_keys=True).encode("utf-8")).hexdigest()
    done = (folder / "done").exists()
    envs, trial, seed = (args[name] for name in ("test_envs", "trial_seed", "hparams_seed"))
    return Job(
        dataset=args["dataset"],
        algorithm=name,
        about=f"test environments {envs}, trial {trial}, hparams seed {seed}",
        folder=folder,
        state=DONE if done else UNFINISHED if folder.exists() else NOT_STARTED,
        seconds=seconds(folder) if done else None,
        args={**args, "output_dir": str(folder)},
    )


def seconds(folder: Path) -> float | None:
    """The seconds of a job, from its first file, written at its start, to `done`; None if it has paused meanwhile."""
    if has_paused(folder):
        return None
    try:
        first = min(file.stat().st_mtime for file in folder.iterdir())
        return max(0.0, (folder / "done").stat().st_mtime - first)
    except OSError:
        return None


def _arguments(spec: Spec, data_dir: str, chosen: Sequence[Choice] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of the method, or variant, and the arguments of every run.

    The `chosen` values are explicit, since DomainBed draws those of a seed from the trial too. Pairs of environments
    have the settings of both.
    """
    for trial in spec.trials if chosen is None else spec.trials[1:]:
        for dataset in spec.datasets:
            for name in spec.algorithms:
                variant = _variant(spec, name)
                fixed = {**(spec.hparams or {}), **variant.hparams}
                for test_envs in _test_envs(dataset, spec):
                    settings = (
                        dict.fromkeys(range(spec.n_hparams), fixed)
                        if chosen is None
                        else {
                            choice.hparams_seed: choice.hparams
                            for choice in chosen
                            if (choice.dataset, choice.algorithm) == (dataset, name) and choice.test_env in test_envs
                        }
                    )
                    for hparams_seed, hparams in sorted(settings.items()):
                        yield (
                            name,
                            {
                                "dataset": dataset,
                                "algorithm": variant.algorithm,
                                "test_envs": test_envs,
                                "holdout_fraction": HOLDOUT_FRACTION,
                                "hparams_seed": hparams_seed,
                                "data_dir": data_dir,
                                "task": "domain_generalization",
                                "trial_seed": trial,
                                "seed": seed_hash(dataset, variant.algorithm, test_envs, hparams_seed, trial),
                                **({"steps": spec.steps} if spec.steps is not None else {}),
                                **({"hparams": json.dumps(hparams)} if hparams else {}),
                            },
                        )


def _variant(spec: Spec, name: str) -> Variant:
    return spec.variants[name] if spec.variants else Variant(name, name, {})


def _test_envs(dataset: str, spec: Spec) -> Iterator[list[int]]:
    count = _environments(dataset)
    chosen = list(range(count))
    if spec.test_envs:
        names = [str(name) for name in ENVIRONMENTS.get(dataset, range(count))]
        if unknown := [name for name in spec.test_envs if name not in names]:
            raise UserError(f"{dataset} has no environment {unknown[0]!r} to test on; it has {', '.join(names)}")
        chosen = [names.index(name) for name in spec.test_envs]
    for first in chosen:
        yield [first]
        if spec.selection == "leave-one-out":
            yield from ([first, second] for second in range(first + 1, count))


def _environments(dataset: str) -> int:
    if dataset in ENVIRONMENTS:
        return len(ENVIRONMENTS[dataset])
    try:  # a data set that only DomainBed knows; this imports torch
        return int(importlib.import_module("domainbed.datasets").num_environments(dataset))
    except Exception as error:
        raise UserError(f"the data set {dataset!r} is not one of DomainBed's: {error}") from None
