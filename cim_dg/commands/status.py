"""`cim-dg status`: which jobs in a folder are done, running or failed, why, and the time left."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.launchers.job import NOTES
from cim_dg.results.protocols import STOPPED
from cim_dg.runtime import locks
from cim_dg.runtime.files import last_line
from cim_dg.sweeps.jobs import DONE, NOT_STARTED, UNFINISHED, Job, duration, seconds_left

LEAST_SECONDS = 0.1
RUNNING, FAILED = "running", "failed"
STATES = (DONE, RUNNING, FAILED, UNFINISHED, NOT_STARTED)

_ABOUT = re.compile(r"^\t(dataset|algorithm|test_envs|trial_seed|hparams_seed): (.*)$", re.MULTILINE)
_JOB_NAME = re.compile("[0-9a-f]{32}")
_OPTION = re.compile(r"--(\w+) (.*?)(?= --|$)")
_ERROR = re.compile(r"^(error: |Traceback \(most recent call last\))", re.MULTILINE)


def add_parser(subparsers: Any) -> None:
    """Add `status` to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="say which jobs of a sweep are done, running or failed, and how long the rest takes",
        description="Looks at the jobs' folders alone, those of DomainBed, of the stand-in and of WILDS, in DIR and "
        "below, and disturbs nobody.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument(
        "--watch",
        nargs="?",
        const=10.0,
        type=float,
        metavar="SECONDS",
        help="look again every SECONDS (10 if not given) until nothing is left to run, or until Ctrl-C; exit code 0",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the number of jobs in each state, the time left, and the failures.

    Raises:
        UserError: there is no such folder, no job in it, or an interval that is no time.
    """
    if arguments.watch is None:
        print(describe(_jobs(arguments.folder)))
    elif not LEAST_SECONDS <= arguments.watch <= 86_400:
        raise UserError(f"--watch is {arguments.watch:g}; accepted are {LEAST_SECONDS:g} to 86400 seconds")
    else:
        watch(arguments.folder, arguments.watch)
    return 0


def watch(folder: Path, seconds: float) -> None:
    """Show the state again and again, in place on a terminal, until nothing is left to run or Ctrl-C.

    Raises:
        UserError: as of `run`, at the first look or later.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    live = Live(console=console, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), live if console.is_terminal else contextlib.nullcontext():
        while True:
            jobs = _jobs(folder)
            text = f"{datetime.now():%H:%M:%S}  {describe(jobs)}"
            if console.is_terminal:
                live.update(Text(text), refresh=True)
            else:
                print(text, flush=True)
            if all(job.state in (DONE, FAILED, STOPPED) for job in jobs):
                return
            time.sleep(seconds)


def _jobs(folder: Path) -> list[Job]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    jobs = list(find(folder))
    if not jobs:
        raise UserError(f"no job has been started in {folder}")
    return jobs


def describe(jobs: list[Job]) -> str:
    """How many jobs are in which state, the time left, and the failures, in lines."""
    count = Counter(job.state for job in jobs)
    stopped = f", {count[STOPPED]} stopped early" if count[STOPPED] else ""
    lines = [
        f"{len(jobs)} jobs: " + ", ".join(f"{count[state]} {state}" for state in STATES) + stopped + ".",
        _time_left(jobs, side_by_side=max(1, count[RUNNING])),
    ]
    by_error: dict[str | None, list[Job]] = {}
    for job in jobs:
        if job.state == FAILED:
            by_error.setdefault(_error(job.folder), []).append(job)
    for error, (first, *others) in by_error.items():
        methods = Counter(job.algorithm for job in others)
        more = ", ".join(f"{method} {number}" for method, number in methods.items() if method != "?")
        lines += [
            f"Failed: {first.folder} ({first.algorithm} on {first.dataset}, {first.about})"
            + (f" and {len(others)} others" if others else "")
            + (f": {more}" if more else ""),
            f"    {error}",
        ]
    return "\n".join(lines)


def find(folder: Path) -> Iterator[Job]:
    """The jobs in a folder and below, in the order of their folders."""
    for place, below, names in os.walk(folder):
        for note in sorted(Path(place, NOTES).glob("*.json")):
            if not (refused := Path(place, note.name.removesuffix(".json"))).exists():
                options = _launched(refused)
                dataset, algorithm = (options.get(name, "?") for name in ("dataset", "algorithm"))
                yield Job(dataset, algorithm, f"{_about(options)}, refused at its start", refused, FAILED)
        below[:] = sorted(set(below) - {NOTES})
        if "run.json" in names:
            with contextlib.suppress(FileNotFoundError):  # it has been removed meanwhile
                yield _wilds(Path(place))
        elif {"out.txt", "results.jsonl", "done"} & set(names) or (_JOB_NAME.fullmatch(Path(place).name) and not below):
            yield _domainbed(Path(place), set(names) - {locks.NAME})
        else:
            continue
        below.clear()


def _domainbed(folder: Path, names: set[str]) -> Job:
    from cim_dg.sweeps.domainbed import seconds

    if "done" in names:
        state = DONE if _has_results(folder) else FAILED
    elif STOPPED in names:
        state = STOPPED
    elif locks.is_claimed(folder):
        state = RUNNING
    elif not names:
        state = NOT_STARTED
    elif _error(folder) is not None:
        state = FAILED
    else:
        state = RUNNING if locks.may_be_running(folder) else UNFINISHED
    options = _printed(folder) or _launched(folder)
    return Job(
        dataset=options.get("dataset", "?"),
        algorithm=options.get("algorithm", "?"),
        about=_about(options),
        folder=folder,
        state=state,
        seconds=seconds(folder) if state == DONE else None,
    )


def _has_results(folder: Path) -> bool:
    """Whether results.jsonl ends with a complete line. Only its end is read."""
    try:
        with open(folder / "results.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2))
            return file.read().rstrip().endswith(b"}")
    except OSError:
        return not folder.is_dir()  # it has been removed meanwhile


def _about(options: Mapping[str, str]) -> str:
    """The arguments of a job as text."""
    if "log_dir" in options:  # of WILDS
        return f"seed {options.get('seed', '?')}"
    envs, trial, seed = (options.get(name, "?") for name in ("test_envs", "trial_seed", "hparams_seed"))
    return f"test environments {envs}, trial {trial}, hparams seed {seed}"


def _printed(folder: Path) -> dict[str, str]:
    """The arguments, which `train` prints at its start, before anything that can fail or take long."""
    try:
        with open(folder / "out.txt", encoding="utf-8", errors="replace") as file:
            return dict(_ABOUT.findall(file.read(10_000)))
    except OSError:
        return {}


def _launched(folder: Path) -> dict[str, str]:
    """The arguments of a job that failed, from its launcher's note; none if there is no note."""
    options = dict(_OPTION.findall(_note(folder).get("command", "")))
    if "test_envs" in options:
        options["test_envs"] = f"[{', '.join(options['test_envs'].split())}]"
    return options


def _error(folder: Path) -> str | None:
    """The last error of the last attempt at a job; None if it printed none, or has not ended."""
    from cim_dg.domainbed.standin.lib.command import NOTICE

    if (folder / "done").exists():
        return "it is done, but its results.jsonl is empty or cut off; remove its folder to have it run again"
    try:
        text = (folder / "err.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _noted(folder)
    attempt = text.rpartition(NOTICE)[2]  # each attempt at a job of the stand-in begins with it
    return last_line(folder / "err.txt") if _ERROR.search(attempt) else _noted(folder)


def _wilds(folder: Path) -> Job:
    from cim_dg.sweeps.wilds import seconds

    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        config = record["config"]
        dataset, algorithm, seed = config["dataset"], config["algorithm"], config["seed"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / 'run.json'} is no record of a run; move its folder away") from None
    if record.get("finished"):
        state = DONE
    elif (folder / STOPPED).exists():
        state = STOPPED
    elif locks.may_be_running(folder):
        state = RUNNING
    else:
        state = FAILED if _noted(folder) else UNFINISHED
    return Job(dataset, algorithm, f"seed {seed}", folder, state, seconds(record) if state == DONE else None)


def _noted(folder: Path) -> str | None:
    """The reason of a job's failure in its launcher's notes; None if it did not fail."""
    return _note(folder).get("reason")


def _note(folder: Path) -> dict[str, str]:
    """The launcher's note of a job that failed: `reason`, `command`; an empty one if there is none."""
    try:
        noted = json.loads((folder.parent / NOTES / f"{folder.name}.json").read_text(encoding="utf-8"))
        return {name: str(noted[name]) for name in ("reason", "command") if name in noted}
    except (OSError, ValueError, TypeError):
        return {}


def _time_left(jobs: list[Job], side_by_side: int) -> str:
    missing = [job for job in jobs if job.state in (RUNNING, UNFINISHED, NOT_STARTED)]
    if not missing:
        return (
            "Nothing is left to run."
            if all(job.state in (DONE, STOPPED) for job in jobs)
            else "Only failed jobs are left."
        )
    seconds = seconds_left(jobs, missing)
    if seconds is None:
        return "Time left: not known before a job is done."
    return f"Time left: {duration(seconds / side_by_side)}, with {side_by_side} jobs side by side."
