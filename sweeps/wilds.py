"""A sweep's jobs in WILDS: a run of `cim-dg wilds train` for each method and seed, by any of our launchers."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cim_dg import launchers
from cim_dg.errors import UserError
from cim_dg.launchers import launch
from cim_dg.results.protocols import Choice
from cim_dg.runtime.files import last_line
from cim_dg.runtime.halving import current_marker
from cim_dg.sweeps.halving import Cell, Span
from cim_dg.sweeps.jobs import DONE, NOT_STARTED, UNFINISHED, Command, Job, check_launcher
from cim_dg.sweeps.spec import Spec

CHECKPOINTS = ("*_model.pth", "*_checkpoint.pt")
"""What a run keeps to go on from."""


def jobs(spec: Spec, data_dir: str | None, output_dir: Path, chosen: Sequence[Choice] | None = None) -> list[Job]:
    """A run for each data set, method, setting and seed.

    With the settings that a search has `chosen` on the first seed: theirs on the other seeds.
    """
    if chosen is None:
        runs = itertools.product(spec.trials, spec.datasets, spec.algorithms, range(spec.n_hparams))
        return [_job(output_dir, *run) for run in runs]
    return [
        _job(output_dir, seed, choice.dataset, choice.algorithm, choice.hparams_seed, choice.hparams)
        for seed in spec.trials[1:]
        for choice in chosen
    ]


def spans(spec: Spec) -> dict[str, Span]:
    """The epochs of a run on each dataset; each has a checkpoint."""
    return {
        name: (int((spec.options or {}).get("n_epochs") or _defaults(spec, name)["n_epochs"]), 1)
        for name in spec.datasets
    }


def ranked(spec: Spec, folder: Path) -> dict[Cell, list[Choice]]:
    """The settings of the first seed, the best by the selection rule first, by dataset and method.

    Raises:
        UserError: there is no run to choose.
    """
    from cim_dg.results.group_selection import best_epochs, chosen_by, figures_at
    from cim_dg.results.read import read

    records = read([folder])
    runs = dict(enumerate(records.runs))
    figures = figures_at(records, best_epochs(records, runs, spec.selection))
    choices: dict[Cell, list[Choice]] = {}
    for dataset, algorithm in itertools.product(spec.datasets, spec.algorithms):
        # Of equals the highest hparams seed, as in the tables.
        candidates = sorted(
            (figures[number][chosen_by(spec.selection)], run.hparams_seed, number)
            for number, run in runs.items()
            if (run.args.get("dataset"), run.algorithm) == (dataset, algorithm)
            and chosen_by(spec.selection) in figures.get(number, ())
        )
        if not candidates:
            raise UserError(f"{folder} has no run of {algorithm} on {dataset} that {spec.selection} can select")
        names = _searched(spec, dataset, algorithm)
        choices[dataset, algorithm, None] = [
            Choice(dataset, algorithm, None, seed, {name: runs[number].hparams[name] for name in names}, value)
            for value, seed, number in reversed(candidates)
        ]
    return choices


def commands(
    spec: Spec, data_dir: str | None, output_dir: Path, planned: list[Job], chosen: bool = False
) -> list[Command]:
    """A command for each job that is not done; interrupted jobs resume."""
    if data_dir is None:
        raise UserError("a sweep of WILDS needs --data_dir, the folder that holds its datasets (its root_dir)")
    result = []
    for job in planned:
        if job.state == DONE:
            continue
        argv = [
            *(sys.executable, "-m", "cim_dg.cli", "wilds", "train"),
            *("--dataset", job.dataset, "--algorithm", job.algorithm, "--root_dir", data_dir),
            *("--log_dir", str(job.folder), "--seed", str(job.args["seed"]), "--selection", spec.selection),
            "--resume",
            *(["--hparams_seed", str(job.args["hparams_seed"])] if job.args["hparams_seed"] else []),
            *(word for name, value in (spec.options or {}).items() for word in _option(name, value)),
            *(word for name, value in job.args["hparams"].items() for word in _option(name, value)),
        ]
        result.append(Command(argv, [job]))
    return result


def check(spec: Spec, commands: list[Command]) -> None:
    """Check what every run would refuse.

    Raises:
        UserError: the launcher or a method is not known, or an option is not accepted.
    """
    check_launcher(spec.command_launcher, launchers.LAUNCHERS)
    from cim_dg.wilds.run import config_of, parsed  # the methods' options import torch

    for command in {(command.jobs[0].dataset, command.jobs[0].algorithm): command for command in commands}.values():
        config_of(parsed(command.words[5:]))  # after `python -m cim_dg.cli wilds train`


def clear(planned: list[Job]) -> list[Job]:
    """Remove nothing, because interrupted runs resume; returns no folder, because launchers skip running jobs."""
    return []


def run(spec: Spec, commands: list[Command]) -> None:
    """Run the commands' jobs by the launcher of the sweep.

    Raises:
        UserError, RunError, LeftToAnother: as of `cim_dg.launchers.launch`.
    """
    launch(spec.command_launcher, [_launched(command) for command in commands])


def _launched(command: Command) -> launchers.Job:
    argv, marker = command.words[3:], current_marker()
    return launchers.Job(
        command=("python", *command.words[1:]),
        folder=command.jobs[0].folder.absolute(),
        resumes=True,
        done=marker or "run.json",
        done_key=None if marker else "finished",
        entry="cim_dg.cli:main",
        arguments=tuple(argv),
        gib=functools.partial(_gib, tuple(argv)),
    )


def _gib(arguments: tuple[str, ...]) -> float:
    from cim_dg.wilds.memory import gib  # it imports torch

    return gib(arguments)


def is_done(job: Job) -> bool:
    """Whether the job is done now."""
    record = _record(job.folder)
    return record is not None and bool(record.get("finished"))


def last_words(job: Job) -> str:
    """The last line of a failed run's log, for the error message."""
    return last_line(job.folder / "log.txt") or "it has no log"


def _searched(spec: Spec, dataset: str, algorithm: str) -> list[str]:
    """The names of the values that a search draws."""
    from cim_dg.wilds.search import space

    options, own = space(_defaults(spec, dataset).get("search", {}), algorithm)
    return [*options, *own]


def _defaults(spec: Spec, dataset: str) -> dict[str, Any]:
    from cim_dg.wilds.config import dataset_defaults

    return dataset_defaults(dataset, (spec.options or {}).get("defaults"))


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def _job(
    output_dir: Path,
    seed: int,
    dataset: str,
    algorithm: str,
    hparams_seed: int,
    hparams: Mapping[str, Any] | None = None,
) -> Job:
    setting = f"-hparams{hparams_seed}" if hparams_seed else ""
    folder = output_dir / f"{dataset}-{algorithm}-seed{seed}{setting}"
    record = _record(folder)
    state = NOT_STARTED if record is None else DONE if record.get("finished") else UNFINISHED
    about = f"seed {seed}" + (f", hparams seed {hparams_seed}" if hparams_seed else "")
    args = {"seed": seed, "hparams_seed": hparams_seed, "hparams": hparams or {}}
    return Job(dataset, algorithm, about, folder, state, seconds(record) if state == DONE else None, args)


def seconds(record: Mapping[str, Any] | None) -> float | None:
    """The seconds of a run, from its run.json."""
    value = (record or {}).get("seconds")
    return float(value) if isinstance(value, (int, float)) else None


def _record(folder: Path) -> dict[str, Any] | None:
    """The content of run.json; None if there is none."""
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path} is no record of a run; move its folder away")
    return record
