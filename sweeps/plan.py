"""A sweep's plan: the done and the missing jobs, the time left, and running them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from cim_dg.errors import LEFT, LeftToAnother, RunError, UserError
from cim_dg.launchers import SUBMITS, watchdog
from cim_dg.results import primary
from cim_dg.results.protocols import SEARCH_THEN_SEEDS, STOPPED
from cim_dg.runtime.files import write_atomically
from cim_dg.runtime.halving import marker
from cim_dg.sweeps import data, domainbed, halving, stages, wilds
from cim_dg.sweeps.jobs import DONE, UNFINISHED, Command, Job, duration, guessed, seconds_left
from cim_dg.sweeps.spec import Spec

_HARNESS: dict[str, ModuleType] = {"domainbed": domainbed, "wilds": wilds}


@dataclass(frozen=True)
class Plan:
    """The current jobs of a sweep, and the commands of its harness that run the missing ones."""

    spec: Spec
    jobs: list[Job]
    commands: list[Command]
    files: Mapping[Path, str] = field(default_factory=dict)
    """what to write before the commands run, path to text"""
    later: int = 0
    """the jobs of a second stage, which cannot be planned yet"""
    place: halving.Place | None = None
    """of a search by halving: its rung, to which the jobs run"""

    def is_last(self) -> bool:
        """Whether nothing is planned by what these jobs find."""
        return not self.later and (self.place is None or self.place.divisor == 1)

    def missing(self) -> list[Job]:
        """The jobs that are not done."""
        return [job for job in self.jobs if job.state != DONE]

    def still_missing(self) -> list[Job]:
        """The missing jobs that are still not done."""
        done, rung = _HARNESS[self.spec.harness].is_done, marker(self.place.divisor if self.place else 1)
        return [job for job in self.missing() if not (done(job) or (job.folder / rung).exists())]

    def only_submits(self) -> bool:
        """Whether the launcher returns before the jobs have run."""
        return self.spec.command_launcher in SUBMITS

    def check(self) -> None:
        """Check, before anything starts, what every job would refuse.

        Raises:
            UserError: the harness does not know the launcher, a method or a hyper-parameter, or refuses a value.
        """
        if self.commands:
            _HARNESS[self.spec.harness].check(self.spec, self.commands)

    def describe(self) -> str:
        """The plan as a few lines of text."""
        spec = self.spec
        states = Counter(job.state for job in self.jobs)
        per_method = Counter(job.algorithm for job in self.missing())
        lines = [
            f"{spec.title} ({spec.harness}: {', '.join(spec.datasets)}; selection {spec.selection})",
            f"{len(self.jobs)} jobs: {states[DONE]} done, {states[UNFINISHED]} unfinished, "
            f"{len(self.jobs) - states[DONE] - states[UNFINISHED]} not started.",
        ]
        if spec.protocol == SEARCH_THEN_SEEDS:
            lines[0] = f"{lines[0][:-1]}; {spec.protocol}, {spec.n_hparams} settings, {spec.n_trials} trials)"
        if self.place is not None:
            lines[0] = f"{lines[0][:-1]}, halving {spec.halving})"
            lines.append(str(self.place))
        if self.later:
            lines.append(f"Stage 1 of 2, the search; {self.later} jobs with the selected settings follow.")
        if per_method:
            lines.append("Missing: " + ", ".join(f"{method} {count}" for method, count in per_method.items()) + ".")
            lines.append(self._time_left())
        elif self.jobs and all(job.seconds is not None for job in self.jobs):
            lines.append(f"They took {duration(sum(job.seconds or 0.0 for job in self.jobs))}, one after the other.")
        return "\n".join(lines)

    def seconds_left(self) -> float | None:
        """The seconds of the missing jobs in sequence, estimated from the done ones; None if none is done."""
        full = seconds_left(self.jobs, self.missing())
        in_search = self.place is not None and not self.is_last()
        return full * self.place.part if full is not None and self.place is not None and in_search else full

    def _time_left(self) -> str:
        seconds = self.seconds_left()
        if seconds is None:
            return "Time left: not known before a job is done."
        left = f"Time left: {duration(seconds)} of computing, divided by the jobs that run side by side."
        return left + guessed(self.jobs, self.missing())


def make_plan(spec: Spec, data_dir: str | None, output_dir: Path) -> Plan:
    """Plan a sweep; nothing is written or run.

    Raises:
        UserError: the data are missing, or the folder is one of another protocol.
    """
    if absent := data.lacking(spec, data_dir):
        how = "".join(f"; {command}" for command in data.remedy(spec, data_dir))
        if data_dir is None:
            raise UserError(f"--data_dir is missing: the folder that holds {', '.join(absent)}{how}")
        raise UserError(f"--data_dir {data_dir} holds no {', '.join(absent)}, which this sweep needs{how}")
    harness = _HARNESS[spec.harness]
    if spec.protocol == SEARCH_THEN_SEEDS:
        planned = stages.make(spec, data_dir, output_dir, harness)
        return Plan(spec, planned.jobs, planned.commands, planned.files, planned.later, planned.place)
    stages.refuse_plain(output_dir)
    jobs = harness.jobs(spec, data_dir, output_dir)
    return Plan(spec, jobs, harness.commands(spec, data_dir, output_dir, jobs))


def check_on_paper(spec: Spec, data_dir: str | None) -> None:
    """Check what every job would refuse, but for data that no folder is given for.

    Raises:
        UserError: as of `make_plan` and `Plan.check`.
    """
    spec = replace(spec, data=spec.data if data_dir else (), protocol="random-search", halving=None)
    make_plan(spec, data_dir or domainbed.NO_DATA, Path("nowhere")).check()


def declare_primary(plan: Plan, output_dir: Path) -> None:
    """Record the primary comparison of a sweep in its folder, before its jobs run.

    Raises:
        UserError: the folder has another one, or cannot be written.
    """
    finished = sum(job.state == DONE for job in plan.jobs)
    try:
        if (declared := plan.spec.primary) is not None:
            declared = replace(declared, dataset=declared.dataset or plan.spec.datasets[0])  # several name one
            primary.declare(output_dir, declared, plan.spec.selection, finished)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be used: {error.strerror}") from None


def run(plan: Plan, output_dir: Path, printed: Path | None = None) -> None:
    """Run the missing jobs, except those that another process is running or has in its list.

    The stdout of DomainBed's commands goes to stdout, or is appended to the file `printed`.

    Raises:
        UserError: the folder cannot be written, Slurm does not answer, or DomainBed's command refuses its input.
        RunError: jobs failed; the message has the last line of the first.
        LeftToAnother: no job failed, but some are left to another process.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be used: {error.strerror}") from None
    for path, text in plan.files.items():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)
    harness = _HARNESS[plan.spec.harness]
    for job in plan.place.stopped if plan.place else ():
        write_atomically(job.folder / STOPPED, "")
        for path in (path for pattern in harness.CHECKPOINTS for path in job.folder.glob(pattern)):
            path.unlink(missing_ok=True)
    left = {job.folder for job in harness.clear(plan.jobs)}
    if left:
        print(f"{len(left)} jobs are running or queued elsewhere, and are left alone", file=sys.stderr)
    with halving.told(plan.place):
        if plan.spec.harness == "wilds":
            wilds.run(plan.spec, plan.commands)
            codes = []
        else:
            codes = _run_commands(plan.commands, printed)
    _check(plan, codes, left)


def _run_commands(commands: list[Command], printed: Path | None) -> list[int]:
    """Run commands in sequence, even if one fails; returns their exit codes."""
    # DomainBed starts its jobs as `python`. PATH makes that the interpreter that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    codes = []
    with contextlib.nullcontext() if printed is None else open(printed, "a") as output:
        for number, command in enumerate(commands, start=1):
            print(f"[{number}/{len(commands)}] $ {shlex.join(command.words)}", file=sys.stderr, flush=True)
            for file, text in command.files.items():
                write_atomically(file, text)
            # If this process is killed, the watchdog ends the harness' command, and so its jobs.
            argv = [sys.executable, "-IS", watchdog.__file__, str(os.getpid()), *command.words]
            done = subprocess.run(argv, env={**os.environ, "PATH": path}, stdout=output, check=False)
            codes.append(done.returncode)
    return codes


def _check(plan: Plan, codes: list[int], left: set[Path]) -> None:
    """Check that all planned jobs are done now."""
    harness = _HARNESS[plan.spec.harness]
    failed = plan.still_missing()
    errors = [code for code in codes if code not in (0, LEFT)]
    if not errors and (not failed or plan.only_submits()):
        return
    if 2 in errors:
        raise UserError("DomainBed's command refused to start the jobs, for the reason above")
    if not failed:
        raise RunError(f"all jobs are done, but a command ended with exit code {errors[0]}")
    if not errors and (LEFT in codes or {job.folder for job in failed} <= left):
        raise LeftToAnother(
            f"{len(failed)} of {len(plan.missing())} jobs are left to another process; the same command again shows "
            "the table when they are done"
        )
    first = failed[0]
    raise RunError(
        f"{len(failed)} of {len(plan.missing())} jobs are not done; the first, {first.algorithm} on {first.dataset} "
        f"({first.about}), in {first.folder}: {harness.last_words(first)}"
    )
