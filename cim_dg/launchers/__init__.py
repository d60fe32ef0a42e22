"""Jobs and their launchers: on this machine, in warm processes, on Ray, on Slurm. Independent of any harness."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from cim_dg.errors import LEFT, LeftToAnother, RunError, UserError
from cim_dg.launchers.job import Ending, Job, failures, note_failure
from cim_dg.launchers.notes import announced
from cim_dg.runtime import devices, locks, settings

__all__ = ["LAUNCHERS", "Ending", "Job", "check", "launch"]

Launcher = Callable[[Sequence[Job]], "Mapping[Job, Ending] | None"]
"""Runs jobs and returns their endings, or submits them and returns None."""

LAUNCHERS = {
    "local": "cim_dg.launchers.machine:local",
    "parallel": "cim_dg.launchers.machine:parallel",
    "multi_gpu": "cim_dg.launchers.machine:multi_gpu",
    "pool": "cim_dg.launchers.machine:pool",
    "ray": "cim_dg.launchers.ray:ray_launcher",
    "slurm": "cim_dg.launchers.slurm:slurm_launcher",
}
HERE = ("local", "parallel", "multi_gpu", "pool")
"""The launchers whose jobs run on this machine."""
SUBMITS = ("slurm",)
"""The launchers that return before the jobs have run."""
DYING = 10.0
"""Seconds that a killed process may take to end and to lose its lock."""
NAMED = 2
"""The number of failed jobs that an error names."""


def check(name: str) -> None:
    """Check, before anything is made, that there is the GPU which a launcher's jobs need on this machine.

    Raises:
        UserError: torch can use no GPU, and CIM_DG_REQUIRE_GPU is set or the launcher is `multi_gpu`.
    """
    if name in HERE:
        devices.check_required()
    if name == "multi_gpu" and not devices.gpus():
        raise UserError(
            "the launcher multi_gpu needs a GPU and there is none; --command_launcher local runs on the CPU"
        )


def launch(name: str, jobs: Sequence[Job]) -> None:
    """Run jobs by a launcher. If one fails, the others still run. Jobs that are done are not run again.

    A job that another process has is left to it. If that has ended when all the others have, or DYING seconds later,
    and the job is not done, it runs then: NFS keeps the locks of a machine that has died for a while, mostly 90
    seconds, and a killed process needs a moment to end.

    Raises:
        UserError: there is no such launcher, it cannot work here, or a setting is not accepted.
        RunError: jobs failed; the message has the last line of the first ones. A job that failed CIM_DG_MAX_FAILURES
            times before is not started.
        LeftToAnother: no job failed, but another process runs some of them.
    """
    if name not in LAUNCHERS:
        raise UserError(f"there is no launcher {name!r}; there are {', '.join(LAUNCHERS)}")
    module, _, function = LAUNCHERS[name].partition(":")
    launcher: Launcher = getattr(import_module(module), function)
    most = settings.get("CIM_DG_MAX_FAILURES")
    missing = [job for job in jobs if not job.is_done()]
    if missing:
        check(name)
    given_up = {job: noted for job, noted in ((job, failures(job)) for job in missing) if noted[0] >= most}
    with announced([job for job in missing if job not in given_up]) as to_run:
        endings = dict(launcher(to_run) or {})
        if freed := _freed([job for job, ending in endings.items() if ending.code == LEFT]):
            print(f"{len(freed)} jobs were left to processes that have ended since, and run now", file=sys.stderr)
            endings |= launcher(freed) or {}
    failed = {job: reason for job, ending in endings.items() if (reason := ending.failure(job)) is not None}
    if name not in SUBMITS:
        for job, reason in failed.items():
            note_failure(job, reason)
    lines = [f"{job}\n    {reason}" for job, reason in failed.items()]
    lines += [
        f"{job}\n    it has failed {count} times and was not started (to start it: CIM_DG_MAX_FAILURES={count + 1}, or "
        f"remove {job.failures_file}), the last time: {reason}"
        for job, (count, reason) in given_up.items()
    ]
    left = sum(ending.code == LEFT and not job.is_done() for job, ending in endings.items())
    sentence = f"{left} jobs are run by another process, to which they are left"
    if lines:
        if left:
            print(sentence, file=sys.stderr)
        if len(lines) > NAMED:
            folder = os.path.commonpath([job.folder.parent for job in jobs])
            lines[NAMED:] = [f"and {len(lines) - NAMED} others: cim-dg status {shlex.quote(folder)}"]
        raise RunError(f"{len(failed) + len(given_up)} of {len(jobs)} jobs failed:\n" + ";\n".join(lines))
    if left:
        raise LeftToAnother(sentence)


def _freed(left: Sequence[Job]) -> list[Job]:
    """Those of the jobs left to other processes that no process has any more, and that are not done."""
    deadline = time.monotonic() + DYING
    while any(locks.is_claimed(job.folder) for job in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [job for job in left if not job.is_done() and not locks.is_claimed(job.folder)]
